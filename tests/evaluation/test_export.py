"""Exported networks equal the trained ones."""

import importlib.util

import pytest
import torch
from torch import nn

from kdbench.errors import CheckpointError, ConfigError
from kdbench.evaluation import export
from kdbench.evaluation.export import export_onnx, export_safetensors, require_onnx

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export._PACKAGES),
    reason="the extra 'onnx' is not installed",
)


@pytest.fixture
def network():
    """A tiny network with every kind of layer that the usual networks have."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)).eval()


def test_safetensors_are_verified(network, tmp_path, monkeypatch):
    path = tmp_path / "new" / "model.safetensors"
    export_safetensors(network, path, {"arch": "toy"})
    assert path.exists()
    monkeypatch.setattr(export, "state_digest", lambda state: object())
    with pytest.raises(CheckpointError, match="differs from what was written"):
        export_safetensors(network, path, {})


@needs_onnx
def test_onnx_agrees_with_torch_for_any_batch_size(network, tmp_path):
    import onnxruntime

    images, path = torch.randn(5, 1, 8, 8), tmp_path / "model.onnx"
    check = export_onnx(network, path, {"arch": "toy", "classes": '["a"]'}, images)
    assert check.images == check.same_top1 == 5
    assert check.max_difference < 1e-5
    assert "same class for 5 of 5 images" in str(check)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"arch": "toy", "classes": '["a"]'}
    for size in (1, 7):
        images = torch.randn(size, 1, 8, 8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(images).detach())


@needs_onnx
def test_an_onnx_file_with_other_logits_is_not_written(network, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match=r"model\.onnx is not written: .* differ by at most"):
        export_onnx(network, tmp_path / "model.onnx", {}, torch.randn(3, 1, 8, 8))
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_a_network_that_onnx_does_not_support_is_an_error(tmp_path):
    class Undecided(nn.Module):
        def forward(self, images):
            return images.flatten(1) if images.sum() > 0 else -images.flatten(1)

    with pytest.raises(ConfigError, match="Undecided cannot be exported to ONNX"):
        export_onnx(Undecided(), tmp_path / "model.onnx", {}, torch.randn(3, 1, 8, 8))


def test_missing_packages_are_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    with pytest.raises(ConfigError, match=r"needs onnxruntime, not installed.*kdbench\[onnx\]"):
        require_onnx()
