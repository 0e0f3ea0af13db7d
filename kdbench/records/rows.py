"""``metrics.csv``: one row per epoch, always written, the source of reports.

Its column "epoch" counts finished epochs, 1 to N, like the log, W&B and the page. Files of earlier
versions count from 0 and are converted on reading.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

from kdbench.errors import ConfigError, DataError
from kdbench.files import write_atomic
from kdbench.words import list_some

# A spreadsheet would run a name that begins with = + - @ as a formula.
_COLUMN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


def write_metrics(path: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Replaces the file by ``rows`` atomically.

    The rows belong to the state of the run and are all written each time, so a resumed run has
    exactly the rows of an uninterrupted one. Columns are in order of first appearance; a missing
    value is an empty cell. Floats round-trip exactly.

    Raises:
        ConfigError: a column has an invalid name.
        ResourceError: the file cannot be written.
    """
    columns = _columns(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) if name in row else "" for name in columns])
    write_atomic(path, text.getvalue().encode())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``, without empty cells.

    Raises:
        DataError: the file is missing, a cell is not a number, or epochs are missing.
    """
    try:
        with path.open(newline="") as file:
            return _count_from_one(
                [
                    {name: float(cell) for name, cell in row.items() if cell}
                    for row in csv.DictReader(file, strict=True)
                ]
            )
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path} is not a table of numbers: {error}; it is written again when its run is "
            f"resumed"
        ) from error


def _count_from_one(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    if not any("epoch" in row for row in rows):
        return rows
    found = [row.get("epoch") for row in rows]
    for first in (1, 0):
        if found == list(range(first, first + len(rows))):
            return [{**row, "epoch": float(done)} for done, row in enumerate(rows, 1)]
    raise ValueError(f"its epochs are {list_some(found, 8)}, but should be 1, 2, 3, ...")


def _columns(rows: Iterable[Mapping[str, float | int]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        if not _COLUMN.fullmatch(name):
            raise ConfigError(
                f"metrics.csv: column {name!r} must begin with a letter and contain only letters, "
                f"digits and _ . / -; rename the loss term or metric"
            )
    return columns


def _cell(value: float | int) -> str:
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))
