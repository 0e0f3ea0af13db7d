"""Numbers that papers print, and which of them to show where sources disagree.

``published/NAME.csv`` holds what was read in one work; ``scripts/import_published.py`` makes them.
The rule: the source nearest to the origin of a number is shown (``KINDS``, in that order), and
among sources that are equally near the one that comes first in ``PREFERRED``. Whoever shows the
number also has the range of all of them.
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

# Nearest to the origin first. What a row's "kind" means, and how a report says it:
KINDS = {
    "own": "own paper or repository (RepDistiller for methods before it)",
    "quoted": "quoted in another work",
    "other": "run by another work",
    "log": "released log, file or figure",
    "memory": "from memory, not verified",
}
# Of which epoch a number is, and how a report says it.
SELECTIONS = {"best": "best epoch", "last": "last epoch", "unknown": "epoch unknown"}
# Works whose tables are complete and were checked against others; all others follow by name.
PREFERRED = ("crd", "lskd", "ttm", "itrd")


@dataclass(frozen=True)
class PublishedNumber:
    """One number in one source.

    Attributes:
        paper: the work in which it was read.
        arxiv: its number there; empty where it has none.
        table: where in the work.
        quoted: the work that it says the number is from; empty where it says none.
        kind: how near to the origin of the number, one of ``KINDS``.
        dataset, teacher, student: names as in ``conf/``.
        method: name in ``conf/method``; empty where there is none.
        printed: the method as the work calls it.
        top1_mean: percent (of GLUE tasks, the task's metric).
        top1_std: percentage points; None where the work does not say.
        runs: what the work says about their number; empty where it says nothing.
        teacher_top1, student_top1: of the teacher, and of the student alone; None where not said.
        source: where the text of the work was found.
        confidence: "read-from-source" or "from-memory".
        selection: epoch that ``top1_mean`` is of, one of ``SELECTIONS``: "best" on the test set,
            "last", or "unknown" where neither the work nor its authors say it.
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
    """The number that is shown, and what else is known.

    Attributes:
        value: percent.
        row: where it stands.
        rule: why this one, in words.
        low, high: range over all sources, percent.
        selection: epoch that the value is of, one of ``SELECTIONS``.
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
    """The numbers that were read in one work.

    Args:
        name: stem of a file in ``published/``, such as "ttm".

    Raises:
        DataError: there is no such file, or a row of it is not complete.
    """
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise DataError(f"no published numbers are called {name!r}; there are {', '.join(names())}")
    with path.open(newline="") as file:
        return tuple(_read(row, path) for row in csv.DictReader(file))


def load_all() -> dict[str, tuple[PublishedNumber, ...]]:
    """All published numbers by the work they were read in, the preferred works first."""
    return {name: load(name) for name in names()}


def knows(dataset: str) -> bool:
    """Whether anything was published about a dataset."""
    return bool(_of(dataset))


def names() -> list[str]:
    """Works with published numbers, the preferred ones first."""
    found = {path.stem for path in FOLDER.glob("*.csv")}
    return [*PREFERRED, *sorted(found - set(PREFERRED))]


def find(dataset: str, teacher: str | None, student: str, method: str) -> Choice | None:
    """The published number of a cell; None where there is none.

    Args:
        dataset: its name.
        teacher: its architecture, with or without "torchvision:"; None for the student alone.
        student: its architecture.
        method: name in ``conf/method``; for "scratch", the baseline that papers print beside
            their results.
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
    """The published number of what runs have in common; None where they differ in it."""
    names = {(r.dataset, _first_teacher(r), r.student, r.method) for r in records}
    return find(*names.pop()) if len(names) == 1 else None


def _first_teacher(record: RunRecord) -> str | None:
    """Papers name the teacher that a chain of assistants begins with."""
    return first_of_chain(record.teacher_config) if record.teacher_config else record.teacher


def find_teacher(dataset: str, teacher: str) -> Choice | None:
    """What was published about a teacher; None where nothing was."""
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
    value, row = min(found, key=lambda pair: kinds.index(pair[1].kind))  # the first of equals
    values = [value for value, _ in found]
    rule = f"{role or KINDS[row.kind]}: {row.paper}, {row.table}"
    # A work prints beside its results what a student or teacher has in an earlier one, as a rule.
    selection = row.selection if role is None or row.selection == "last" else "unknown"
    return Choice(value, row, rule, min(values), max(values), selection)


def _read(row: dict[str, str], path: Path) -> PublishedNumber:
    try:
        if row["kind"] not in KINDS:
            raise ValueError(f"kind {row['kind']!r} is none of {', '.join(KINDS)}")
        if row["selection"] not in SELECTIONS:
            raise ValueError(f"selection {row['selection']!r} is none of {', '.join(SELECTIONS)}")
        numbers: dict[str, Any] = {n: float(row[n]) if row[n] else None for n in _OPTIONAL}
        return PublishedNumber(**{**row, **numbers, "top1_mean": float(row["top1_mean"])})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the row {row} cannot be read: {error}") from error
