"""The reference weights and images: reproducible from key names alone, independent of any init."""

import hashlib
import math

import torch

from tests.helpers.paths import SHARED

FILE_NAMES = {
    "mobilenetv2": "MobileNetV2",
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
}


def compat_file(arch):
    return SHARED / "compat" / f"{FILE_NAMES.get(arch, arch)}.json"


def fill(model):
    """Overwrite every parameter and buffer; float32 values, each from its own generator."""
    state = model.state_dict()
    for key in sorted(state):
        state[key].copy_(_values(key, state[key].shape))
    return model


def images(batch=2, channels=3, size=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1234)
    return torch.randn(batch, channels, size, size, generator=generator).to(dtype)


def sha256(tensor):
    return hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()


def _values(key, shape):
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    generator = torch.Generator().manual_seed(seed)
    kind = key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if kind == "running_var":
        return 1 + 0.1 * torch.rand(shape, generator=generator)
    if kind in ("running_mean", "bias"):
        return 0.1 * torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + 0.1 * torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
