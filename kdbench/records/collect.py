"""Reads run folders: tables, figures and pages are made from these and from nothing else.

What lies there may be somebody else's: odd records are left out with a word, and are never fatal.
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

_MAX_NAME = 250  # characters: a name longer than this is in no folder's name
_MAX_DEPTH = 60  # of a config
_MAX_HEAD = 10**8  # bytes of the head of a safetensors file
LOG, _MAX_TAIL = "train.log", 10**5  # bytes; a failure and its traceback end it
_LOGGED = re.compile(r"\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d")
_FAILED = re.compile(r"[-\d]+ [:\d]+ failed: (.*)")
_OWN_FOLDER = re.compile(r"seed\d+-([0-9a-f]{10})")  # hydra.run.dir, unless somebody changed it


@dataclass(frozen=True)
class RunFolder:
    """A run that has ended, well or not.

    Attributes:
        folder: where it is.
        record: what it says of itself.
        damage: why its metrics.csv is not the one that it ended with; None where it is.
    """

    folder: Path
    record: RunRecord
    damage: str | None = None

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """One row an epoch, names as in ``engine/metrics.py``; empty where none can be trusted."""
        return _read_rows(self.folder / METRICS) if self.damage is None else []

    @cached_property
    def timings(self) -> list[dict[str, float]]:
        """One row an epoch: "perf/seconds" and what goes with it."""
        return _read_rows(self.folder / TIMINGS)


@dataclass(frozen=True)
class Collection:
    """All that was found below a folder.

    Attributes:
        runs: that have ended, in the order of their folders.
        unfinished: folders of runs that have begun and have no record.
        problems: one sentence for each record that cannot be used.
    """

    runs: list[RunFolder]
    unfinished: list[Path]
    problems: list[str]

    @property
    def distinct(self) -> list[RunFolder]:
        """Every run once: a table has a student that learnt alone in several columns."""
        once: dict[Path, RunFolder] = {}
        for run in self.runs:
            once.setdefault(run.folder, run)
        return list(once.values())


def collect(outputs: Path) -> Collection:
    """Reads every run below a folder. Nothing in there is fatal, and nothing is left out silently.

    Repetitions are checks of runs, not runs of their own, and are passed over.

    Args:
        outputs: such as ``outputs``, ``outputs/runs`` or the folder of one run.
    """
    found = Collection([], [], [])
    for folder, has_record in _run_folders(outputs):
        if not has_record:
            found.unfinished.append(folder)
            continue
        try:
            record = _read_sound(folder)
            damage = _find_damage(folder, record)
        except (CheckpointError, OSError) as error:
            found.problems.append(str(error))
            continue
        found.runs.append(RunFolder(folder, record, damage))
    return found


def find_failure(folder: Path) -> str | None:
    """Why a run without a record failed, as its log ends; None where it may still go on."""
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
    """When a run ended: comparable, whatever time zone its machine was in."""
    return parse_time(record.finished)


def parse_time(text: str) -> datetime:
    """A time of a record in UTC; one that names no zone is taken for UTC.

    Raises:
        ValueError: it is none.
    """
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _read_sound(folder: Path) -> RunRecord:
    """The record of a run, if it can be one and is of this folder."""
    record = read_record(folder)
    odd = next(_oddities(record), None) or _find_stranger(folder, record)
    if odd is not None:
        raise CheckpointError(f"{folder / FILE} is left out: {odd}")
    return record


def _oddities(record: RunRecord) -> Iterator[str]:
    """What no run of kdbench says of itself, although every field has its type."""
    for name, value in vars(record).items():
        if isinstance(value, str) and name != "reason" and len(value) > _MAX_NAME:
            yield f"its {name} has {len(value):,} characters, at most {_MAX_NAME} are possible"
    if record.cohort_size < 1:
        yield f"its cohort_size is {record.cohort_size}, and a run is one of at least one"
    for name in ("started", "finished"):
        try:
            parse_time(getattr(record, name))
        except (ValueError, OverflowError):
            yield f"its {name} is {getattr(record, name)!r:.60}, which is no time"
    parts: list[Any] = [record.config, record.environment, record.test, record.convergence]
    for _ in range(_MAX_DEPTH):
        parts = [value for part in parts if isinstance(part, dict | list) for value in _in(part)]
    if parts:
        yield f"its config or environment is nested more than {_MAX_DEPTH} levels deep"


def _in(part: dict[str, Any] | list[Any]) -> list[Any]:
    return list(part.values()) if isinstance(part, dict) else part


def _find_stranger(folder: Path, record: RunRecord) -> str | None:
    """Why a record is of another run than the folder that it lies in; None where it is not."""
    own = _OWN_FOLDER.fullmatch(folder.name)
    weights = _key_of_weights(folder / WEIGHTS)
    for key, what in ((own and own.group(1), "folder"), (weights, WEIGHTS)):
        if key and not record.run_key.startswith(key):
            return (
                f"it is of the run {record.run_key[:10]:.10}, but the {what} it lies "
                f"{'in' if what == 'folder' else 'beside'} is of {key[:10]}; put it where it was"
            )
    return None


def _key_of_weights(path: Path) -> str | None:
    """The run that final weights say they are of; None where they say nothing."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(size)) if size < _MAX_HEAD else {}
        key = head["__metadata__"]["run_key"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # whoever loads them says what is wrong with them
    return key if isinstance(key, str) else None


def _find_damage(folder: Path, record: RunRecord) -> str | None:
    """What is wrong with the metrics.csv of a run; None where it is as the run left it."""
    path = folder / METRICS
    if record.metrics_digest is None:
        return None
    if not path.is_file():
        return f"{path} is missing; its run is in the table, and its curves are not drawn"
    if file_digest(path) != record.metrics_digest:
        return (
            f"{path} was changed after the run ended: it does not have the digest of its record; "
            f"its run is in the table, and its curves are not drawn"
        )
    return None


def _run_folders(outputs: Path) -> Iterator[tuple[Path, bool]]:
    for place, folders, files in os.walk(outputs):
        folders.sort()
        if FILE in files or ".hydra" in folders:
            folders.clear()  # a run has no runs inside
            if REPETITION not in files:
                yield Path(place), FILE in files


def _read_rows(path: Path) -> list[dict[str, float]]:
    return read_metrics(path) if path.exists() else []  # a run may fail in its first epoch
