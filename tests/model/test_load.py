import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

from kdbench.digest import state_digest
from kdbench.errors import ConfigError
from kdbench.model import cifar
from kdbench.model.load import check_forward, load_model
from kdbench.model.profile import count_parameters
from tests.helpers.paths import ROOT

STUDENTS = ROOT / "conf" / "student"


def refusal(arch, num_classes=10, **arguments):
    with pytest.raises(ConfigError) as caught:
        load_model(arch, num_classes, **arguments)
    return str(caught.value)


def test_a_plain_name_is_one_of_the_24():
    model = load_model("wrn_16_1", num_classes=5, in_channels=1, image_size=28)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 5)


def test_the_seed_determines_the_initialization():
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        digests.append(state_digest(load_model("resnet8", 10).state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_weights_come_from_a_file(tmp_path):
    source = load_model("resnet8", 10)
    torch.save(source.state_dict(), tmp_path / "resnet8.pth")
    loaded = load_model("resnet8", 10, weights=tmp_path / "resnet8.pth")
    assert state_digest(loaded.state_dict()) == state_digest(source.state_dict())


@pytest.mark.parametrize(
    ("arch", "size", "channels", "options"),
    [
        ("timm:test_resnet", 28, 1, {}),
        ("timm:test_vit", 32, 3, {}),
        ("timm:test_vit", 28, 1, {"patch_size": 4}),
        ("torchvision:resnet18", 64, 3, {}),
        ("torchvision:vit_b_16", 32, 3, {}),
    ],
)
def test_networks_of_other_libraries_accept_the_images_of_the_dataset(
    arch, size, channels, options
):
    model = load_model(arch, 10, None, channels, size, **options)
    check_forward(model, channels, size)
    assert model.eval()(torch.zeros(1, channels, size, size)).shape == (1, 10)


def test_unknown_names_suggest_the_three_nearest():
    message = refusal("resnet8x5")
    assert "'resnet8x5'" in message
    assert "resnet8x4, resnet8, " in message
    assert "timm:NAME and torchvision:NAME" in message
    message = refusal("timm:vit_tiny_patch16_22")
    assert message.startswith("arch='timm:vit_tiny_patch16_22'")
    assert "vit_tiny_patch16_224" in message
    assert message.count(",") == 2
    assert "resnet18" in refusal("torchvision:resnet17")


@pytest.mark.parametrize("arch", ["timm:", "timm", "hub:resnet18", "timm:hf-hub:timm/resnet18", ""])
def test_invalid_names_are_refused(arch):
    assert "unknown network" in refusal(arch)


def test_options_that_a_network_does_not_have_are_refused():
    assert "found patch_size" in refusal("resnet8", patch_size=4)
    assert "patch_size=4" in refusal("timm:test_resnet", patch_size=4)
    assert "img_size" in refusal("timm:test_resnet", img_size=32)
    assert "with foo=1" in refusal("torchvision:resnet18", foo=1)
    assert "3 channels, the dataset has 1" in refusal("torchvision:resnet18", in_channels=1)


def test_an_image_size_that_is_not_a_multiple_of_the_patch_size_is_refused():
    message = refusal("timm:test_vit", image_size=28)
    assert "28 is not a multiple of the patch size 16" in message
    assert "image_size=30" in refusal("torchvision:vit_b_16", image_size=30)


def test_check_forward_names_sizes_and_layer_without_side_effects():
    model = load_model("torchvision:alexnet", 10).train()
    model.features.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ConfigError, match=r"3x32x32.*features\.12 \(MaxPool2d\).*256x1x1"):
        check_forward(model, 3, 32)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_check_forward_does_not_change_statistics_or_random_numbers():
    model = nn.Sequential(load_model("resnet8", 10), nn.Dropout()).train()
    digest = state_digest(model.state_dict())
    random_state = torch.get_rng_state()
    check_forward(model, 3, 32)
    assert state_digest(model.state_dict()) == digest
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(ConfigError, match="4x32x32"):
        check_forward(model, 4, 32)


def test_other_libraries_are_imported_only_when_used():
    code = "import sys, kdbench.model.load as m; m.load_model('resnet8', 10); " + (
        "sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_network_has_a_student_file():
    files = {path.stem for path in STUDENTS.glob("*.yaml")}
    assert files == {*cifar.__all__, "timm", "torchvision"}


@pytest.mark.parametrize("stem", [*cifar.__all__, "timm", "torchvision"])
def test_student_file(stem):
    text = (STUDENTS / f"{stem}.yaml").read_text()
    student = yaml.safe_load(text)
    assert student.pop("_target_") == "kdbench.model.load.load_model"
    arch = student.pop("arch")
    assert arch == stem or arch.startswith(f"{stem}:")
    assert student == {
        "num_classes": "${dataset.num_classes}",
        "in_channels": "${dataset.channels}",
        "image_size": "${dataset.image_size}",
        "weights": None,
    }
    assert f"{count_parameters(load_model(arch, 100)):,} parameters" in text.splitlines()[0]
