"""Device, precision and threads of a process."""

import os
import platform
import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError
from kdbench.machine import has_fast_bf16, wanted_threads
from kdbench.model.fuse import fold_norms, fuse_norms
from kdbench.model.fused_norm import load_kernel
from kdbench.outputs import NetworkOutput
from kdbench.words import plural

if TYPE_CHECKING:
    from omegaconf import DictConfig

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")


@dataclass(frozen=True)
class Compute:
    """Device, precision and layout of the networks of a process.

    Attributes:
        device: of all networks, batches and meters.
        precision: of the networks: "fp32", "tf32", "bf16" or "fp16". Losses are always float32;
            with "tf32" their matrix products are rounded like those of the networks.
        memory_format: of images and convolution weights.
        folds: whether batch norms of frozen networks are folded into convolutions.
        fuses: whether trained networks on a CPU use the batch norm of ``fused_norm.py``.
    """

    device: torch.device
    precision: str
    memory_format: torch.memory_format
    folds: bool = False
    fuses: bool = False

    @property
    def layout(self) -> str:
        """The settings that affect the last bits of a network's output, in words."""
        words = [str(self.memory_format).removeprefix("torch.")]
        words += ["folded"] * self.folds + ["fused"] * self.fuses
        return ", ".join(words)

    def forward(self, network: nn.Module, images: Tensor) -> Tensor:
        """[B, K] float32 logits of a network, computed in this precision and memory format."""
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast():
            return network(images).float()

    def forward_features(self, network: nn.Module, images: Tensor) -> NetworkOutput:
        """What a network that shows its features answers; logits are float32, maps as computed.

        Args:
            network: a ``WithFeatures``, or what ``fold`` or ``fuse`` made of one.
            images: [B, C, H, W].
        """
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast():
            found = network(images)
        return found._replace(logits=found.logits.float())

    def place(self, network: nn.Module) -> nn.Module:
        """Moves a network to the device and memory format, in place."""
        return network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def fold(self, network: nn.Module) -> nn.Module:
        """The network to compute a frozen network with: itself, or a folded copy."""
        return fold_norms(network) if self.folds else network

    def fuse(self, network: nn.Module) -> nn.Module:
        """The network to train a network with: itself, or a fused one with shared parameters."""
        return fuse_norms(network, load_kernel()) if self.fuses else network

    @property
    def batch_norm(self) -> str:
        """The batch norm in training: "fused", or "torch", for example without a compiler."""
        return "fused" if self.fuses and load_kernel() is not None else "torch"

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _autocast(self) -> AbstractContextManager:
        if self.precision in ("fp32", "tf32"):
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def peak_memory_mb(self) -> float:
        """Peak memory so far, in MB: of the GPU's allocator, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def choose_compute(device: str, precision: str, channels_last: bool) -> Compute:
    """Resolves "auto" and checks that this machine has the device and the precision.

    Raises:
        ConfigError: unknown or missing device, or a precision that it does not support.
    """
    found = _find_device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return Compute(found, _find_precision(precision, found), memory_format)


def configure_compute(
    cfg: "DictConfig | Mapping[str, Any]", precision: str | None = None
) -> Compute:
    """Applies the sections ``run`` and ``speed`` of a config to this process.

    By default torch uses TF32 (10 bits of mantissa) in float32 convolutions on NVIDIA GPUs: "fp32"
    disables it, "tf32" enables it, in matrix products too.

    Args:
        cfg: of a run, composed or resolved.
        precision: overrides that of the config.

    Raises:
        ConfigError: see ``choose_compute``.
    """
    run, speed = cfg["run"], cfg["speed"]
    compute = choose_compute(
        run["device"], precision or run["precision"], channels_last=speed["channels_last"]
    )
    torch.backends.cuda.matmul.allow_tf32 = compute.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = compute.precision == "tf32"
    # The kernel supports only channels-last, and cuDNN is fast already.
    fuses = speed["fused_norm"] and speed["channels_last"] and compute.device.type == "cpu"
    return replace(compute, folds=speed["fold_teacher"], fuses=fuses)


def set_threads(threads: int | None) -> int:
    """Sets the CPU threads of this process; None for OMP_NUM_THREADS, or else all available cores.

    The number changes the last bits of sums, so it is explicit and recorded.
    """
    threads = wanted_threads(threads) or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def current_threads() -> int:
    """CPU threads of this process."""
    return torch.get_num_threads()


def read_flags() -> dict[str, bool]:
    """Current values of the torch flags that affect the bits of results on a GPU."""
    return {
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def describe_machine(compute: Compute, threads: int) -> str:
    """Everything about a machine that affects the speed and last bits of a network, in words."""
    where = f"{cpu_model()}, {plural(threads, 'thread')}"
    if compute.device.type == "cuda":
        tf32 = "TF32" if compute.precision == "tf32" else "no TF32"
        where = f"{torch.cuda.get_device_name(compute.device)}, {tf32}"
    return f"{where}, {compute.precision}, {compute.layout}, torch {torch.__version__}"


def cpu_model() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")  # the platform module knows only the architecture
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


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
            f"run.device={name!r}: {count} CUDA device(s) are visible to this process "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}); "
            f"use run.device=cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"run.device={name!r}: only cpu and cuda are supported")
    return device


def _find_precision(precision: str, device: torch.device) -> str:
    if precision not in PRECISIONS:
        raise ConfigError(f"run.precision={precision!r}: use one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and not _has_tf32(device):
        raise ConfigError(
            f"run.precision=tf32 needs an NVIDIA GPU with compute capability 8.0 or higher, found "
            f"{_describe_device(device)}; use fp32 or bf16"
        )
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("run.precision=fp16 needs a CUDA device, found cpu; use bf16 or fp32")
    return precision


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _has_fast_bf16(device: torch.device) -> bool:
    known = has_fast_bf16(str(device))  # first, to agree with the run key, computed without torch
    if known is not None:
        return known
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
