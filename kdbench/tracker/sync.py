"""Uploads runs that were trained offline: ``wandb sync`` for everything below a folder.

W&B stores an attempt of an offline run in ``<run>/wandb/offline-run-<time>-<id>/run-<id>.wandb``.
The latest attempt of a run has its whole curve (see ``WandbTracker``), and its upload replaces that
run on the server. W&B marks uploaded attempts with a file ``.synced``, so uploading again does
nothing.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kdbench.records.lock import is_held

# Suffix of the id of an attempt that could not use the id of its run.
OTHER_ID = "-offline"

_ATTEMPTS = "wandb/offline-run-*/run-*.wandb"
_HOPELESS = 5  # after so many single attempts failed and none succeeded, the server is at fault


def mark_superseded(current: Path) -> None:
    """Marks older offline attempts of a run as uploaded: the current one has all their data.

    Args:
        current: folder of the current attempt.
    """
    for log in current.parents[1].glob(_ATTEMPTS):
        if log.parent.resolve() != current.resolve():
            _mark(log).touch()


def find_pending(outputs: Path) -> tuple[list[Path], list[Path]]:
    """Offline attempts below a folder that have not been uploaded.

    Returns:
        Folders of those that can be uploaded, and of those whose run is still training: W&B would
        mark them as uploaded and never send the rest.
    """
    waiting = sorted(log.parent for log in outputs.rglob(_ATTEMPTS) if not _mark(log).exists())
    busy = [attempt for attempt in waiting if is_held(attempt.parents[1])]
    return [attempt for attempt in waiting if attempt not in busy], busy


def sync_arguments(attempts: Sequence[Path]) -> list[str]:
    """Arguments of ``wandb`` that upload attempts under the id of their run.

    Args:
        attempts: folders; several only if each has the id of its run.
    """
    other = [attempt.name for attempt in attempts if attempt.name.endswith(OTHER_ID)]
    run_id = [other[0].rsplit("-", 2)[1]] if other else []
    return ["sync", *(f"--id={name}" for name in run_id), *map(str, attempts)]


def sync(attempts: Sequence[Path], outputs: Path) -> list[Path]:
    """Uploads attempts, with W&B's own progress on the terminal.

    W&B uploads none of several attempts if one is unreadable, such as that of a process killed at
    startup, so a group that fails is split in half.

    Args:
        attempts: folders from ``find_pending``.
        outputs: W&B's debug logs are written to ``wandb/`` in this folder.

    Returns:
        Attempts that could not be uploaded.
    """
    others = [[attempt] for attempt in attempts if attempt.name.endswith(OTHER_ID)]
    groups = [*others, [attempt for attempt in attempts if [attempt] not in others]]
    refused, some_arrived = 0, False
    while groups and (some_arrived or refused < _HOPELESS):
        group = groups.pop()
        if not group:
            continue
        _run_wandb(sync_arguments(group), outputs)
        if any(map(_is_uploaded, group)):
            some_arrived = True
        elif len(group) > 1:
            groups += [group[::2], group[1::2]]
        else:
            refused += 1
    return [attempt for attempt in attempts if not _is_uploaded(attempt)]


def _run_wandb(arguments: Sequence[str], outputs: Path) -> None:
    # The exit code is 0 even if uploads fail: the marks show which succeeded.
    subprocess.run(
        [sys.executable, "-m", "wandb", *arguments],
        env={"WANDB_DIR": str(outputs), **os.environ},
        check=False,
    )


def _is_uploaded(attempt: Path) -> bool:
    return all(_mark(log).exists() for log in attempt.glob("*.wandb"))


def _mark(log: Path) -> Path:
    return log.with_name(f"{log.name}.synced")
