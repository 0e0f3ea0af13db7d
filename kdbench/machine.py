"""CPU threads, GPUs and fast precisions of this machine, found without torch."""

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
_NO_GPU = ("", "-1", "none", "void", "NoDevFiles")  # values that hide every GPU


def wanted_threads(threads: int | None) -> int | None:
    """``run.threads``, or else OMP_NUM_THREADS; None if neither is set.

    Slurm and containers set the variable. Of a list for nested levels, such as "4,1", the first
    number is used.
    """
    if threads is not None:
        return threads
    first = os.environ.get(THREADS, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def thread_variables(default: int) -> dict[str, str]:
    """Thread variables for a process of a sweep: as set for this process, or else ``default``."""
    return {THREADS: str(wanted_threads(None) or default)}


def resolve_precision(precision: str, device: str) -> str:
    """Resolves ``run.precision=auto`` for this machine; "auto" if only torch can tell.

    Args:
        precision: as in the config.
        device: ``run.device``.
    """
    if precision != "auto":
        return precision
    fast = has_fast_bf16(device)
    return "auto" if fast is None else "bf16" if fast else "fp32"


@lru_cache
def has_fast_bf16(device: str) -> bool | None:
    """Whether a device is at least as fast in bfloat16 as in float32; None if unknown.

    Takes milliseconds, once per process.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    capabilities = [] if device == "cpu" else _compute_capabilities()
    if device.startswith("cuda") or capabilities:
        number = int(device.partition(":")[2] or 0) if device.startswith("cuda:") else 0
        return capabilities[number] >= 8.0 if number < len(capabilities) else None
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return None
    flags = re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_tile"} & set(flags[1].split()))


def visible_gpus() -> list[str]:
    """Ids of the NVIDIA GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in _NO_GPU]
    return _query_nvidia("index")


def _compute_capabilities() -> list[float]:
    """Of the GPUs that this process may use, in order."""
    gpus = visible_gpus()
    if not gpus:
        return []
    rows = [row.split(", ") for row in _query_nvidia("index,uuid,compute_cap")]
    known = {name: float(cap) for index, uuid, cap in rows for name in (index, uuid)}
    return [known[gpu] for gpu in gpus if gpu in known]


def _query_nvidia(fields: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.splitlines()
