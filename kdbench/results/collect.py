"""Reads run folders: tables, figures and pages are made from these and from nothing else."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdbench.errors import CheckpointError
from kdbench.results.record import FILE, METRICS, REPETITION, TIMINGS, RunRecord, read_record
from kdbench.tracker.csv import read_metrics


@dataclass(frozen=True)
class RunFolder:
    """A run that has ended, well or not.

    Attributes:
        folder: where it is.
        record: what it says of itself.
    """

    folder: Path
    record: RunRecord

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """One row an epoch, names as in ``engine/metrics.py``; empty where none was finished."""
        return _read_rows(self.folder / METRICS)

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
        problems: one sentence for each file that cannot be used.
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
            found.runs.append(RunFolder(folder, read_record(folder)))
        except (CheckpointError, OSError) as error:
            found.problems.append(str(error))
    return found


def _run_folders(outputs: Path) -> Iterator[tuple[Path, bool]]:
    for place, folders, files in os.walk(outputs):
        folders.sort()
        if FILE in files or ".hydra" in folders:
            folders.clear()  # a run has no runs inside
            if REPETITION not in files:
                yield Path(place), FILE in files


def _read_rows(path: Path) -> list[dict[str, float]]:
    return read_metrics(path) if path.exists() else []  # a run may fail in its first epoch
