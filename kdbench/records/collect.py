"""Reads run folders, the only source of tables, figures and pages.

The folders may come from somebody else: an invalid record is reported and skipped, never fatal.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.digest import file_digest
from kdbench.errors import CheckpointError
from kdbench.records.record import (
    FILE,
    METRICS,
    REPETITION,
    TIMINGS,
    WEIGHTS,
    RunRecord,
    read_record,
)
from kdbench.records.rows import read_metrics

_MAX_NAME = 250  # characters: file systems allow no longer folder names
_MAX_DEPTH = 60  # of a config
_MAX_HEAD = 10**8  # bytes of the header of a safetensors file
LOG, _MAX_TAIL = "train.log", 10**5  # bytes at its end: enough for an error and its traceback
_LOGGED = re.compile(r"\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d")
_FAILED = re.compile(r"[-\d]+ [:\d]+ failed: (.*)")
_OWN_FOLDER = re.compile(r"seed\d+-([0-9a-f]{10})")  # the default of hydra.run.dir


@dataclass(frozen=True)
class RunFolder:
    """A run that has ended, done or failed.

    Attributes:
        folder: of the run.
        record: of the run.
        damage: why its metrics.csv cannot be used; None if it is intact.
    """

    folder: Path
    record: RunRecord
    damage: str | None = None

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """One row per epoch, names as in ``engine/metrics.py``; empty if damaged."""
        return _read_rows(self.folder / METRICS) if self.damage is None else []

    @cached_property
    def timings(self) -> list[dict[str, float]]:
        """One row per epoch: "perf/seconds" and its parts."""
        return _read_rows(self.folder / TIMINGS)


@dataclass(frozen=True)
class Collection:
    """The runs below a folder.

    Attributes:
        runs: those that have ended, in the order of their folders.
        unfinished: folders of started runs without a record.
        problems: one sentence per record that cannot be used.
    """

    runs: list[RunFolder]
    unfinished: list[Path]
    problems: list[str]

    @property
    def distinct(self) -> list[RunFolder]:
        """Every run once: a table shows a student without a teacher in several columns."""
        once: dict[Path, RunFolder] = {}
        for run in self.runs:
            once.setdefault(run.folder, run)
        return list(once.values())


def collect(outputs: Path) -> Collection:
    """Reads every run below a folder. No content is fatal, and nothing is skipped silently.

    Repetitions check other runs and are ignored.

    Args:
        outputs: such as ``outputs``, ``outputs/runs`` or the folder of one run.
    """
    found = Collection([], [], [])
    for folder, has_record in _run_folders(outputs):
        if not has_record:
            found.unfinished.append(folder)
            continue
        try:
            record = _read_valid(folder)
            damage = _find_damage(folder, record)
        except (CheckpointError, OSError) as error:
            found.problems.append(str(error))
            continue
        found.runs.append(RunFolder(folder, record, damage))
    return found


def find_failure(folder: Path) -> str | None:
    """Why a run without a record failed, from the end of its log; None if it may be running."""
    path = folder / LOG
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MAX_TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if _LOGGED.match(line)), "")
    found = _FAILED.match(last)
    return found.group(1) if found else None


def finished_at(record: RunRecord) -> datetime:
    """When a run ended, in UTC."""
    return parse_time(record.finished)


def parse_time(text: str) -> datetime:
    """A time of a record, in UTC; without a time zone it counts as UTC.

    Raises:
        ValueError: not a time in ISO 8601.
    """
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _read_valid(folder: Path) -> RunRecord:
    """The record of a run; CheckpointError if it is invalid or belongs to another folder."""
    record = read_record(folder)
    problem = next(_invalid_values(record), None) or _find_mismatch(folder, record)
    if problem is not None:
        raise CheckpointError(f"{folder / FILE} is skipped: {problem}")
    return record


def _invalid_values(record: RunRecord) -> Iterator[str]:
    """Values that have the right type but that no run writes."""
    for name, value in vars(record).items():
        if isinstance(value, str) and name != "reason" and len(value) > _MAX_NAME:
            yield f"its {name} has {len(value):,} characters, more than {_MAX_NAME}"
    if record.cohort_size < 1:
        yield f"its cohort_size is {record.cohort_size}, which must be >= 1"
    for name in ("started", "finished"):
        try:
            parse_time(getattr(record, name))
        except (ValueError, OverflowError):
            yield f"its {name} is {getattr(record, name)!r:.60}, which is not a time"
    parts: list[Any] = [record.config, record.environment, record.test, record.convergence]
    for _ in range(_MAX_DEPTH):
        parts = [value for part in parts if isinstance(part, dict | list) for value in _in(part)]
    if parts:
        yield f"its config or environment is nested more than {_MAX_DEPTH} levels deep"


def _in(part: dict[str, Any] | list[Any]) -> list[Any]:
    return list(part.values()) if isinstance(part, dict) else part


def _find_mismatch(folder: Path, record: RunRecord) -> str | None:
    """Why a record belongs to another run than its folder or weights; None if it does not."""
    own = _OWN_FOLDER.fullmatch(folder.name)
    weights = _key_of_weights(folder / WEIGHTS)
    for key, what in ((own and own.group(1), "folder"), (weights, WEIGHTS)):
        if key and not record.run_key.startswith(key):
            return (
                f"it belongs to the run {record.run_key[:10]:.10}, but the {what} to {key[:10]}; "
                f"move it back to its folder"
            )
    return None


def _key_of_weights(path: Path) -> str | None:
    """The run key in the metadata of final weights; None if there is none."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(size)) if size < _MAX_HEAD else {}
        key = head["__metadata__"]["run_key"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # loading the weights reports the problem
    return key if isinstance(key, str) else None


def _find_damage(folder: Path, record: RunRecord) -> str | None:
    """What is wrong with the metrics.csv of a run; None if it is unchanged."""
    path = folder / METRICS
    if record.metrics_digest is None:
        return None
    if not path.is_file():
        return f"{path} is missing; the run is in the table, but its curves are not drawn"
    if file_digest(path) != record.metrics_digest:
        return (
            f"{path} was changed after the run ended: its digest is not that in the record; the "
            f"run is in the table, but its curves are not drawn"
        )
    return None


def _run_folders(outputs: Path) -> Iterator[tuple[Path, bool]]:
    for place, folders, files in os.walk(outputs):
        folders.sort()
        if FILE in files or ".hydra" in folders:
            folders.clear()  # a run contains no other runs
            if REPETITION not in files:
                yield Path(place), FILE in files


def _read_rows(path: Path) -> list[dict[str, float]]:
    return read_metrics(path) if path.exists() else []  # a run may fail in its first epoch
