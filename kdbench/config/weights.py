"""Finds the weights named by ``teacher.weights``, for teachers that are not trained here.

Imports torch only for the weights of a library, because the run key depends on the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.config.compose import plain_name
from kdbench.errors import CheckpointError
from kdbench.model.downloads import find_checkpoint
from kdbench.records.record import FILE, WEIGHTS, RunRecord, read_record

PRETRAINED = "pretrained"


def find_weights(plain: Mapping[str, Any]) -> Path:
    """The weight file of a teacher that is not trained here.

    Args:
        plain: resolved; ``teacher.weights`` is a file, the folder of a run, a folder of published
            teachers, or "pretrained".

    Raises:
        CheckpointError: there is no match, or several; lists what was found.
        ConfigError: the library has no such weights.
    """
    weights, arch = str(plain["teacher"]["weights"]), str(plain["teacher"]["model"]["arch"])
    kind, _, tag = weights.partition(":")
    if kind == PRETRAINED and not Path(weights).exists():
        from kdbench.model.pretrained import find_pretrained  # imports torch

        return find_pretrained(arch, tag or None)
    path = Path(weights)
    if not path.is_dir():
        return require_file("teacher.weights", weights)
    if (path / FILE).is_file():
        require_run(path, arch)
        return path / WEIGHTS
    return find_checkpoint(path, plain_name(arch))


def find_record(plain: Mapping[str, Any]) -> RunRecord | None:
    """The record of the run whose student is the teacher; None if it is not a run."""
    path = Path(str(plain["teacher"]["weights"]))
    return read_record(path) if (path / FILE).is_file() else None


def require_file(key: str, place: str) -> Path:
    """The path of an existing file.

    Raises:
        CheckpointError: it does not exist; the message names ``key``.
    """
    path = Path(place)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        remedy = ", or teacher.weights=auto to train the teacher here" * key.startswith("teacher")
        raise CheckpointError(
            f"{key}={str(path)!r} must be a file, found {found}; give the path of a "
            f"checkpoint{remedy}"
        )
    return path


def require_run(folder: Path, arch: str) -> None:
    """Raises CheckpointError if a run is unfinished, or trained another network."""
    record = read_record(folder)
    if record.status != "done" or not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"teacher.weights={str(folder)!r} is a run without final weights "
            f"({record.reason or record.status}); resume it with kdbench-train, or choose "
            f"another one"
        )
    if record.student != arch:
        raise CheckpointError(
            f"teacher.weights={str(folder)!r} is a run that trained {record.student}, but the "
            f"teacher is {arch}; choose teacher={record.student}, or another run"
        )
