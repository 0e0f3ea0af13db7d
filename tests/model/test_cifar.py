"""Properties of all 24 networks that need no reference data."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.model import cifar
from kdbench.model.features import FeatureNetwork

FAMILIES = ["resnet20", "resnet50", "wrn_16_2", "vgg8"]
FAMILIES += ["mobilenetv2", "shufflenetv1", "shufflenetv2"]


def build(arch, num_classes=10, in_channels=3):
    torch.manual_seed(0)
    return getattr(cifar, arch)(num_classes, in_channels)


def images(batch=2, channels=3, size=32):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_there_are_24_names_in_lower_case():
    assert len(set(cifar.__all__)) == 24
    assert all(name == name.lower() for name in cifar.__all__)


@pytest.mark.parametrize("arch", cifar.__all__)
def test_takes_other_sizes_and_channels(arch):
    model = build(arch, in_channels=1).eval()
    assert isinstance(model, FeatureNetwork)
    with torch.no_grad():
        for size in (28, 8):
            logits = model(images(channels=1, size=size))
            assert logits.shape == (2, 10)
            assert logits.isfinite().all()


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_training_step_reaches_every_parameter(arch):
    model = build(arch).train()
    F.cross_entropy(model(images(4, size=16)), torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("preact", [False, True])
def test_batch_norm_statistics_move_once_per_forward(arch, preact):
    """One zoo runs the extra norms of the WRN in every pass, and so counts each batch twice."""
    model = build(arch).train()
    plain = build(arch).train()
    model.forward_features(images(4, size=16), preact)
    plain(images(4, size=16))
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=0, atol=0)
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == 1, name


@pytest.mark.parametrize("arch", FAMILIES)
def test_preact_does_not_change_the_logits_and_the_stem(arch):
    model = build(arch).eval()
    with torch.no_grad():
        after, before = (
            model.forward_features(images(size=16), preact) for preact in (False, True)
        )
        torch.testing.assert_close(model(images(size=16)), after.logits, rtol=0, atol=0)
    torch.testing.assert_close(after.logits, before.logits)
    for one, other in zip(after.features.maps, before.features.maps, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(before.features.preacts[0], before.features.maps[0])
    torch.testing.assert_close(after.features.pooled, before.features.pooled)
    assert after.features.preacts is None


@pytest.mark.parametrize("arch", ["resnet20", "resnet18", "resnet50", "vgg8", "shufflenetv1"])
def test_maps_are_the_relu_of_the_preact_maps(arch):
    model = build(arch).eval()
    with torch.no_grad():
        found = model.forward_features(images(size=16), preacts=True).features
    for x, y in zip(found.maps, found.preacts, strict=True):
        torch.testing.assert_close(x, F.relu(y))
    assert min(x.min() for x in found.preacts[1:]) < 0


def test_wrn_preact_in_training_is_the_output_of_the_next_norm():
    model = build("wrn_16_2").train()
    found = model.forward_features(images(4, size=16), preacts=True).features
    torch.testing.assert_close(found.preacts[1], model.block2.entry_norm(found.maps[1]))
    torch.testing.assert_close(found.preacts[3], model.bn1(found.maps[3]))


def test_vgg_pools_a_fourth_time_only_at_64_pixels():
    model = build("vgg8").eval()
    sizes = {
        size: [m.shape[-1] for m in model.forward_features(images(size=size)).features.maps]
        for size in (32, 64)
    }
    assert sizes == {32: [32, 16, 8, 4, 4], 64: [64, 32, 16, 8, 4]}


@pytest.mark.parametrize("arch", FAMILIES)
def test_channels_last_and_autocast(arch):
    model = build(arch).eval()
    with torch.no_grad():
        expected = model(images())
        model.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images().to(memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < 0.1  # bfloat16 has 8 bits, and errors add up over the layers


@pytest.mark.parametrize("arch", ["resnet56", "resnet50", "wrn_40_2", "vgg13", "mobilenetv2"])
def test_convolutions_start_with_variance_two_over_fan_out(arch):
    for module in build(arch).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            area_out = module.weight[0, 0].numel() * module.out_channels
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / area_out), rel=0.05)
            assert module.bias is None or not module.bias.any()


def test_classifiers_start_as_in_the_zoos():
    for linear in (build("vgg8").classifier, build("mobilenetv2").classifier[0]):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not linear.bias.any()
    assert not build("wrn_16_2").fc.bias.any()
    assert build("resnet20").fc.bias.any()
    assert build("shufflenetv2").conv2.weight.abs().max() <= 1 / math.sqrt(464)


def test_one_family_per_file():
    folder = Path(cifar.__file__).parent
    families = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert families == {Path(getattr(cifar, n).__code__.co_filename).stem for n in cifar.__all__}
