"""The environment of a run: versions, git revision, machine."""

import hashlib
import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdbench import __version__

PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "omegaconf", "numpy", "wandb")


def describe_environment() -> dict[str, Any]:
    """Versions of the packages that affect the numbers, the git revision, and the machine."""
    return {
        "python": platform.python_version(),
        "versions": {"kdbench": __version__, **{name: _version(name) for name in PACKAGES}},
        "git": describe_revision(Path(__file__).parents[2]),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def timestamp() -> str:
    """The current local time with its UTC offset, to the second: ISO 8601, as in records."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def describe_revision(folder: Path) -> dict[str, Any]:
    """Commit, whether the working tree differs from it, and a digest of the difference.

    All None if the package does not run from a git checkout.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff_digest": None}
    diff = _git(folder, "diff", "HEAD") or ""
    dirty = bool(diff or _git(folder, "status", "--porcelain"))
    return {
        "commit": commit,
        "dirty": dirty,
        "diff_digest": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
