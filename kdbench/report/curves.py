"""Curves over epochs for the runs of each cell of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv

from kdbench.errors import DataError
from kdbench.records.collect import RunFolder, finished_at
from kdbench.records.record import METRICS
from kdbench.report.cells import Table
from kdbench.report.layout import lay_out

WHO = ("teacher", "student")
NAMES = (
    "test/top1",
    "val/top1",
    *(f"temperature/{who}_{part}" for who in WHO for part in ("mean", "p5", "p95", "min", "max")),
)


@dataclass(frozen=True)
class CellRuns:
    """The finished runs of one row and column of a table.

    Attributes:
        row, column: labels as in the table.
        runs: by seed.
        curves: name -> [runs, epochs], in the order of ``runs``, NaN for missing values. Only
            names that at least one run has.
    """

    row: str
    column: str
    runs: Mapping[int, RunFolder]
    curves: Mapping[str, np.ndarray]

    @property
    def accuracy(self) -> str:
        """The accuracy that is measured after each epoch."""
        strict = any(run.record.protocol == "strict" for run in self.runs.values())
        return "val/top1" if strict else "test/top1"

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher."""
        return any(run.record.teacher is not None for run in self.runs.values())

    def mean(self, name: str) -> np.ndarray:
        """Mean over runs, [epochs]."""
        return mean_over(self.curves[name])

    def temperature_band(self, who: str) -> tuple[np.ndarray, np.ndarray]:
        """The 5 % and 95 % quantiles over samples; minimum and maximum for older runs.

        Args:
            who: "teacher" or "student".
        """
        low, high = ("p5", "p95") if f"temperature/{who}_p5" in self.curves else ("min", "max")
        return self.mean(f"temperature/{who}_{low}"), self.mean(f"temperature/{who}_{high}")


def group_runs(runs: Sequence[RunFolder], table: Table) -> tuple[list[CellRuns], list[str]]:
    """The finished runs of each cell of a table, and one sentence for each unusable file.

    Args:
        runs: the runs that the table was built from.
        table: defines the order.
    """
    folders = {id(run.record): run for run in runs}
    cells = lay_out([run.record for run in runs], *table.axes)
    groups: list[CellRuns] = []
    problems: list[str] = []
    for column in table.columns:
        for row in table.rows:
            records = sorted(cells.get((row, column), []), key=finished_at)
            done = [record for record in records if record.status == "done"]
            if done:  # the last run of each seed, as in the table
                kept = {record.seed: folders[id(record)] for record in done}
                groups.append(_group(row, column, dict(sorted(kept.items())), problems))
    return groups, list(dict.fromkeys(problems))  # a student alone may be in several columns


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of a file of metrics, [epochs] each, NaN for empty cells.

    Uses Arrow for its speed (half a millisecond per file): a report may read a thousand files.

    Args:
        path: of the file.
        names: of columns; missing and empty ones are left out.

    Raises:
        DataError: the file is missing, or a cell is not a number.
    """
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(
                include_columns=names,
                include_missing_columns=True,
                column_types=dict.fromkeys(names, pyarrow.float64()),
            ),
        )
    except (OSError, ValueError) as error:  # Arrow's own errors are of these types too
        raise DataError(f"{path} cannot be read as a table of numbers: {error}") from error
    return {name: table[name].to_numpy() for name in names if table[name].null_count < len(table)}


def mean_over(curves: np.ndarray) -> np.ndarray:
    """Mean of the finite values over the first axis; NaN if there are none."""
    known = np.isfinite(curves)
    count = known.sum(axis=0)
    total = np.where(known, curves, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def spread_over(curves: np.ndarray) -> np.ndarray:
    """Standard deviation (n - 1) of the finite values over the first axis; NaN below two."""
    known = np.isfinite(curves)
    count = known.sum(axis=0)
    square = np.where(known, curves - mean_over(curves), 0) ** 2
    return np.where(count > 1, np.sqrt(square.sum(axis=0) / np.maximum(count - 1, 1)), np.nan)


def _group(row: str, column: str, runs: Mapping[int, RunFolder], problems: list[str]) -> CellRuns:
    found = {}
    for seed, run in runs.items():
        try:
            if run.damage is not None:
                raise DataError(run.damage)
            found[seed] = read_columns(run.folder / METRICS, NAMES)
        except DataError as error:
            problems.append(str(error))
            found[seed] = {}
    present = [name for name in NAMES if any(name in curves for curves in found.values())]
    nothing = np.empty(0)
    return CellRuns(
        row,
        column,
        runs,
        {name: _stack([c.get(name, nothing) for c in found.values()]) for name in present},
    )


def _stack(curves: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.full((len(curves), max(map(len, curves))), np.nan)
    for place, curve in zip(stacked, curves, strict=True):
        place[: len(curve)] = curve
    return stacked
