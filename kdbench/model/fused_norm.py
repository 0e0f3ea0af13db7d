"""Batch norm, the addition of a shortcut and ReLU on a CPU, in fewer passes over memory.

PyTorch does them one by one, and each reads and writes all activations: together a quarter of the
training step of a small network. ``fused_norm.cpp`` does them at once. It is compiled with g++ on
first use (some seconds) and kept in the user's cache.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")
# Uses the OpenMP library of torch, which is already loaded, and so shares its threads.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
WIDTH = 16  # as in the source: the number of channels must be a multiple
_DTYPES = (torch.float32, torch.bfloat16)


class Kernel:
    """The functions of the compiled library, on tensors.

    Tensors of one call have one shape [B, C, H, W], channels-last strides and one dtype, float32
    or bfloat16; vectors are float32 [C].
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        flag, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
        self._measure = library.measure_channels
        self._measure.argtypes = [flag, pointer, size, size, *[pointer] * 2]
        self._apply = library.apply_channels
        self._apply.argtypes = [flag, *[pointer] * 3, size, size, *[pointer] * 2, flag]
        self._differentiate = library.differentiate_channels
        self._differentiate.argtypes = [flag, *[pointer] * 5, size, size, *[pointer] * 5, flag]
        for function in (self._measure, self._apply, self._differentiate):
            function.restype = None

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel."""
        mean, variance = (torch.empty(x.shape[1]) for _ in range(2))
        self._measure(_is_bf16(x), x.data_ptr(), *_sizes(x), mean.data_ptr(), variance.data_ptr())
        return mean, variance

    def apply(
        self, x: Tensor, shortcut: Tensor | None, scale: Tensor, shift: Tensor, relu: bool
    ) -> Tensor:
        """``relu(x * scale + shift + shortcut)``, without a shortcut if that is None."""
        y = torch.empty_like(x)
        self._apply(
            _is_bf16(x),
            *_pointers(x, shortcut, y),
            *_sizes(x),
            *_pointers(scale, shift),
            relu,
        )
        return y

    def differentiate(
        self,
        grad_y: Tensor,
        x: Tensor,
        y: Tensor | None,
        mean: Tensor,
        inverse_std: Tensor,
        weight: Tensor,
        adds: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Gradients of x, the shortcut (if any), weight and bias.

        Args:
            grad_y: gradient of the output.
            x: the input.
            y: the output, to see where ReLU was active; None without ReLU.
            mean: of the batch.
            inverse_std: of the batch.
            weight: of the batch norm.
            adds: whether a shortcut was added.
        """
        grad_x, grad_shortcut = torch.empty_like(x), torch.empty_like(x) if adds else None
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(weight)
        self._differentiate(
            _is_bf16(x),
            *_pointers(grad_y, x, y, grad_x, grad_shortcut),
            *_sizes(x),
            *_pointers(mean, inverse_std, weight, grad_weight, grad_bias),
            y is not None,
        )
        return grad_x, grad_shortcut, grad_weight, grad_bias


class NormReLU(nn.Module):
    """``relu(norm(x) + shortcut)``; shares its parameters and statistics with ``norm``.

    Equal to the three modules one by one up to rounding: in bfloat16 it rounds once instead of
    three times. What the kernel does not support (other memory formats, numbers of channels that
    are not a multiple of 16, evaluation with gradients) is computed by PyTorch.

    Args:
        norm: with affine parameters and running statistics.
        relu: whether to apply ReLU.
        kernel: from ``load_kernel``.
    """

    def __init__(self, norm: nn.BatchNorm2d, relu: bool, kernel: Kernel) -> None:
        super().__init__()
        self.norm, self.relu, self.kernel = norm, relu, kernel

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """[B, C, H, W] of ``x`` and an optional shortcut of the same shape."""
        if not self._is_supported(x, shortcut):
            return self._one_by_one(x, shortcut)
        norm = self.norm
        if not norm.training:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
            return self.kernel.apply(x, shortcut, scale, shift, self.relu)
        return _BatchNormReLU.apply(self, x, shortcut, norm.weight, norm.bias)

    def _is_supported(self, x: Tensor, shortcut: Tensor | None) -> bool:
        if not self.norm.training and torch.is_grad_enabled():
            return False
        return _is_suitable(x) and (
            shortcut is None
            or (shortcut.dtype == x.dtype and shortcut.shape == x.shape and _is_suitable(shortcut))
        )

    def _one_by_one(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        y = self.norm(x)
        if shortcut is not None:
            y = y + shortcut
        return F.relu(y, inplace=True) if self.relu else y

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel; updates the running statistics."""
        mean, variance = self.kernel.measure(x)
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        count = x.numel() // x.shape[1]  # the running variance is unbiased
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        return mean, variance


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owner: NormReLU, x: Tensor, shortcut: Tensor | None, weight: Tensor, bias: Tensor
    ) -> Tensor:
        mean, variance = owner.measure(x)
        inverse_std = torch.rsqrt(variance + owner.norm.eps)
        scale = weight * inverse_std
        y = owner.kernel.apply(x, shortcut, scale, bias - mean * scale, owner.relu)
        ctx.save_for_backward(x, y if owner.relu else None, mean, inverse_std, weight)
        ctx.kernel, ctx.adds = owner.kernel, shortcut is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = grad_y.contiguous(memory_format=torch.channels_last)
        gradients = ctx.kernel.differentiate(grad_y, *ctx.saved_tensors, ctx.adds)
        return None, *gradients


def is_fusible(norm: nn.Module) -> bool:
    """Whether ``NormReLU`` can replace a module."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_features % WIDTH == 0
        and norm.weight.device.type == "cpu"
        and norm.weight.dtype == torch.float32
    )


@cache
def load_kernel() -> Kernel | None:
    """The kernel, compiled for this processor; None, with a log message, if that fails."""
    try:
        path = _library_path()
        if not path.exists():
            _compile(path)
        return Kernel(ctypes.CDLL(str(path)))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("using PyTorch's batch norm, which is slower: %s", error)
        return None


def _library_path() -> Path:
    """Path of the library, with a digest of its source, compiler and CPU in its name."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("fused_norm.cpp needs g++, which is not installed")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    made_of = [SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, _cpu_flags()]
    name = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "kdbench" / f"fused_norm-{name}.so"


def _cpu_flags() -> bytes:
    info = Path("/proc/cpuinfo")
    lines = info.read_bytes().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


def _compile(path: Path) -> None:
    """Compiles the library; if several processes do so at once, the last one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = ["g++", *FLAGS, "-o", str(made), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise OSError(f"{' '.join(command)} failed: {done.stderr.strip()[:300]}")
        made.replace(path)


def _is_suitable(x: Tensor) -> bool:
    return (
        x.dtype in _DTYPES
        and x.dim() == 4
        and x.shape[1] % WIDTH == 0
        and x.numel() > x.shape[1]  # a variance needs two values
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _is_bf16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _sizes(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[1], x.shape[1]


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
