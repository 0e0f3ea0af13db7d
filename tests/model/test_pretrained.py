"""Weights of timm and torchvision: from their caches, and what is said without a network."""

import socket
from types import SimpleNamespace

import pytest
import torch

from kdbench.errors import CheckpointError, ConfigError
from kdbench.model.checkpoint import load_weights
from kdbench.model.load import load_model
from kdbench.model.pretrained import find_pretrained

RESNET18 = "resnet18-f37072fd.pth"  # IMAGENET1K_V1


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def torch_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_torchvisions_weights_come_from_its_cache(torch_cache):
    torch_cache.mkdir(parents=True)
    network = load_model("torchvision:resnet18", num_classes=1000)
    torch.save(network.state_dict(), torch_cache / RESNET18)
    file = find_pretrained("torchvision:resnet18")
    assert file == torch_cache / RESNET18
    again = load_model("torchvision:resnet18", num_classes=1000, weights=file)
    assert torch.equal(again.fc.weight, network.fc.weight)


def test_the_first_weights_are_taken_unless_others_are_named(torch_cache):
    torch_cache.mkdir(parents=True)
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
        (torch_cache / name).touch()
    assert find_pretrained("torchvision:resnet50").name == "resnet50-0676ba61.pth"
    second = find_pretrained("torchvision:resnet50", "IMAGENET1K_V2")
    assert second.name == "resnet50-11ad3fa6.pth"


def test_offline_the_message_names_the_file_of_torchvision_and_its_place(torch_cache):
    with pytest.raises(CheckpointError, match="could not be downloaded") as refused:
        find_pretrained("torchvision:resnet18")
    assert str(torch_cache / RESNET18) in str(refused.value)
    assert f"download https://download.pytorch.org/models/{RESNET18}" in str(refused.value)
    assert "teacher.weights=FILE" in str(refused.value)


def test_timms_weights_come_from_the_cache_of_the_hub(hub_cache):
    from safetensors.torch import save_file

    folder = hub_cache / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123456789abcdef")
    snapshot = folder / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    network = load_model("timm:test_resnet", num_classes=1000)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    file = find_pretrained("timm:test_resnet")
    assert file.parent == snapshot
    assert load_weights(file).state.keys() == network.state_dict().keys()
    assert find_pretrained("timm:test_resnet", "r160_in1k") == file


def test_offline_it_is_said_where_timms_file_belongs(hub_cache):
    with pytest.raises(CheckpointError, match="could not be downloaded") as refused:
        find_pretrained("timm:test_resnet")
    assert str(hub_cache / "models--timm--test_resnet.r160_in1k") in str(refused.value)
    assert "huggingface.co/timm/test_resnet.r160_in1k/resolve/main" in str(refused.value)


@pytest.mark.parametrize(
    ("arch", "tag", "words"),
    [
        ("torchvision:resnet18", "IMAGENET1K_V9", "IMAGENET1K_V1"),
        ("torchvision:resnet1234", None, "torchvision has no weights of resnet1234"),
        ("timm:resnet18", "a9_in1k", "resnet18.a1_in1k"),
        ("timm:nothing", None, "timm has no weights nothing"),
        ("resnet20", None, "for networks of timm and torchvision"),
    ],
)
def test_weights_that_nobody_published_are_refused(arch, tag, words):
    with pytest.raises(ConfigError) as refused:
        find_pretrained(arch, tag)
    assert words in str(refused.value)


def test_a_download_goes_into_the_cache(torch_cache, monkeypatch):
    def download(url, file, digits, progress):
        fetched.append((url, digits))
        with open(file, "wb") as written:
            written.write(b"weights")

    fetched: list = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert find_pretrained("torchvision:resnet18").read_bytes() == b"weights"
    assert find_pretrained("torchvision:resnet18").parent == torch_cache
    url = f"https://download.pytorch.org/models/{RESNET18}"
    assert fetched == [(url, "f37072fd")]


def test_a_model_whose_file_is_at_an_address_comes_from_torchs_cache(torch_cache, monkeypatch):
    import timm

    elsewhere = SimpleNamespace(has_weights=True, hf_hub_id=None, url="https://there.org/a-b.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: elsewhere)
    torch_cache.mkdir(parents=True)
    (torch_cache / "a-b.pth").touch()
    assert find_pretrained("timm:resnet18") == torch_cache / "a-b.pth"
