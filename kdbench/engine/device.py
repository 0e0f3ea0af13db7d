"""Device, precision and threads of a process."""

import os
import resource
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16", "auto")


@dataclass(frozen=True)
class Compute:
    """Where and how the networks of a process run.

    Attributes:
        device: all networks, batches and meters live here.
        precision: "fp32", "bf16" or "fp16"; what autocast uses inside the networks. Losses are
            float32 whatever it is.
        memory_format: of images and convolution weights.
    """

    device: torch.device
    precision: str
    memory_format: torch.memory_format

    def forward(self, network: nn.Module, images: Tensor) -> Tensor:
        """[B, K] float32 logits of a network, computed in this precision and memory format."""
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast():
            return network(images).float()

    def place(self, network: nn.Module) -> nn.Module:
        """Moves a network, in place, to the device and the memory format."""
        return network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; passes everything through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _autocast(self) -> AbstractContextManager:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def peak_memory_mb(self) -> float:
        """Most memory used so far, in MB: of the GPU's allocator, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def choose_compute(device: str, precision: str, channels_last: bool) -> Compute:
    """Resolves "auto" and refuses what this machine lacks.

    Raises:
        ConfigError: unknown or missing device, or a precision that the device cannot do.
    """
    found = _find_device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return Compute(found, _find_precision(precision, found), memory_format)


def set_threads(threads: int | None) -> int:
    """Fixes the CPU threads of this process; None: OMP_NUM_THREADS, or the cores it may run on.

    The number changes the last bits of sums, so it is explicit and goes into the record.
    """
    if threads is None:
        variable = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(variable) if variable.isdecimal() else len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"run.device={name!r} is not a device; use auto, cpu, cuda or cuda:<number>"
        ) from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"run.device={name!r}: this machine shows {count} CUDA device(s) to the process "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}); "
            f"use run.device=cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device={name!r}: only cpu and cuda are supported")
    return device


def _find_precision(precision: str, device: torch.device) -> str:
    if precision not in PRECISIONS:
        raise ConfigError(f"run.precision={precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("run.precision=fp16 needs a CUDA device, found cpu; use bf16 or fp32")
    return precision


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
