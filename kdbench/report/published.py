"""Published numbers, and which of them to show if sources disagree.

``published/NAME.csv`` has the numbers from one work; ``scripts/import_published.py`` makes them.
The source closest to the origin of a number is shown (``KINDS``, in that order), and among equally
close sources the first in ``PREFERRED``. The range over all sources comes with it.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.config.compose import plain_name
from kdbench.config.stage import first_of_chain
from kdbench.errors import DataError
from kdbench.records.record import RunRecord

FOLDER = Path(__file__).parent / "published"

# Kinds of sources, closest to the origin first -> description in reports.
KINDS = {
    "own": "own paper or repository (RepDistiller for methods before it)",
    "quoted": "quoted in another work",
    "other": "run by another work",
    "log": "released log, file or figure",
    "memory": "from memory, not verified",
}
# Epochs that a number may refer to -> description in reports.
SELECTIONS = {"best": "best epoch", "last": "last epoch", "unknown": "epoch unknown"}
# Works with complete tables that were checked against others; the rest follow by name.
PREFERRED = ("crd", "lskd", "ttm", "itrd")


@dataclass(frozen=True)
class PublishedNumber:
    """One number in one source.

    Attributes:
        paper: the work that prints the number.
        arxiv: arXiv id of the work; may be empty.
        table: place in the work.
        quoted: the work that it quotes the number from; may be empty.
        kind: relation to the origin of the number, one of ``KINDS``.
        dataset, teacher, student: names as in ``conf/``.
        method: name in ``conf/method``; empty if there is none.
        printed: name of the method in the work.
        top1_mean: percent (of GLUE tasks, the task's metric).
        top1_std: percentage points; None if not reported.
        runs: number of runs as reported; empty if not reported.
        teacher_top1, student_top1: of the teacher, and of the student alone; None if not reported.
        source: where the text of the work was found.
        confidence: "read-from-source" or "from-memory".
        selection: epoch that ``top1_mean`` is of, one of ``SELECTIONS``: "best" on the test set,
            "last", or "unknown" if neither the work nor its authors report it.
    """

    paper: str
    arxiv: str
    table: str
    quoted: str
    kind: str
    dataset: str
    teacher: str
    student: str
    method: str
    printed: str
    top1_mean: float
    top1_std: float | None
    runs: str
    teacher_top1: float | None
    student_top1: float | None
    source: str
    confidence: str
    selection: str


COLUMNS = tuple(field.name for field in fields(PublishedNumber))
_OPTIONAL = ("top1_std", "teacher_top1", "student_top1")


@dataclass(frozen=True)
class Choice:
    """The number to show, and its context.

    Attributes:
        value: percent.
        row: its source.
        rule: why it was chosen.
        low, high: range over all sources, percent.
        selection: epoch that the value refers to, one of ``SELECTIONS``.
    """

    value: float
    row: PublishedNumber
    rule: str
    low: float
    high: float
    selection: str

    @property
    def is_disputed(self) -> bool:
        """Whether sources disagree."""
        return self.high > self.low


@lru_cache
def load(name: str) -> tuple[PublishedNumber, ...]:
    """The numbers from one work.

    Args:
        name: stem of a file in ``published/``, such as "ttm".

    Raises:
        DataError: there is no such file, or one of its rows is incomplete.
    """
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise DataError(f"no published numbers named {name!r}; available: {', '.join(names())}")
    with path.open(newline="") as file:
        return tuple(_read(row, path) for row in csv.DictReader(file))


def load_all() -> dict[str, tuple[PublishedNumber, ...]]:
    """All published numbers by work, the preferred works first."""
    return {name: load(name) for name in names()}


def knows(dataset: str) -> bool:
    """Whether there are published numbers for a dataset."""
    return bool(_of(dataset))


def names() -> list[str]:
    """Works with published numbers, the preferred ones first."""
    found = {path.stem for path in FOLDER.glob("*.csv")}
    return [*PREFERRED, *sorted(found - set(PREFERRED))]


def find(dataset: str, teacher: str | None, student: str, method: str) -> Choice | None:
    """The published number of a cell, if any.

    Args:
        dataset: its name.
        teacher: its architecture, with or without "torchvision:"; None for the student alone.
        student: its architecture.
        method: name in ``conf/method``; "scratch" is the student baseline that papers print.
    """
    alone = [
        (row.student_top1, row)
        for row in _of(dataset)
        if row.student == plain_name(student) and row.student_top1 is not None
    ]
    distilled = [
        (row.top1_mean, row)
        for row in _of(dataset)
        if (row.teacher, row.student) == (plain_name(teacher or ""), plain_name(student))
        and row.method == method != ""
    ]
    return _choose(alone, "baseline") if method == "scratch" else _choose(distilled)


def find_number(records: Sequence[RunRecord]) -> Choice | None:
    """The published number for runs of one dataset, teacher, student and method; else None."""
    names = {(r.dataset, _first_teacher(r), r.student, r.method) for r in records}
    return find(*names.pop()) if len(names) == 1 else None


def _first_teacher(record: RunRecord) -> str | None:
    """The first teacher of a chain of assistants, which is the one that papers name."""
    return first_of_chain(record.teacher_config) if record.teacher_config else record.teacher


def find_teacher(dataset: str, teacher: str) -> Choice | None:
    """The published number of a teacher, if any."""
    return _choose(
        [
            (row.teacher_top1, row)
            for row in _of(dataset)
            if row.teacher == plain_name(teacher) and row.teacher_top1 is not None
        ],
        "baseline",
    )


@lru_cache
def _of(dataset: str) -> tuple[PublishedNumber, ...]:
    return tuple(row for rows in load_all().values() for row in rows if row.dataset == dataset)


def _choose(
    found: Sequence[tuple[float, PublishedNumber]], role: str | None = None
) -> Choice | None:
    if not found:
        return None
    kinds = list(KINDS)
    value, row = min(found, key=lambda pair: kinds.index(pair[1].kind))  # the first of several
    values = [value for value, _ in found]
    rule = f"{role or KINDS[row.kind]}: {row.paper}, {row.table}"
    # Student and teacher baselines are usually copied from an earlier work.
    selection = row.selection if role is None or row.selection == "last" else "unknown"
    return Choice(value, row, rule, min(values), max(values), selection)


def _read(row: dict[str, str], path: Path) -> PublishedNumber:
    try:
        if row["kind"] not in KINDS:
            raise ValueError(f"kind {row['kind']!r} not in {', '.join(KINDS)}")
        if row["selection"] not in SELECTIONS:
            raise ValueError(f"selection {row['selection']!r} not in {', '.join(SELECTIONS)}")
        numbers: dict[str, Any] = {n: float(row[n]) if row[n] else None for n in _OPTIONAL}
        return PublishedNumber(**{**row, **numbers, "top1_mean": float(row["top1_mean"])})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: invalid row {row}: {error}") from error
