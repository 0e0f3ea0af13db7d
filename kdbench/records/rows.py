"""``metrics.csv``: one row an epoch, always written, the file that reports are built from.

Its column "epoch" counts epochs that are finished: 1 to N, as the log, W&B and the page do. Files
of earlier versions count from 0; they are read as if they counted from 1.
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

# A name that begins with = + - @ would be a formula in a spreadsheet.
_COLUMN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


def write_metrics(path: Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Replaces the file by ``rows``; who reads meanwhile sees the old file or the new one.

    The rows belong to the state of the run and are written as a whole each time, so a resumed run
    has exactly the rows of an uninterrupted one. Columns come in the order of their first
    appearance; a value that a row lacks is an empty cell. Floats are written so that reading gives
    back the same bits.

    Raises:
        ConfigError: a column that is not named like a metric.
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
    """The rows of a ``metrics.csv``, each without the cells that are empty.

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
            f"{path} cannot be read as a table of numbers: {error}; it is written again when "
            f"its run is resumed"
        ) from error


def _count_from_one(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    if not any("epoch" in row for row in rows):
        return rows
    found = [row.get("epoch") for row in rows]
    for first in (1, 0):
        if found == list(range(first, first + len(rows))):
            return [{**row, "epoch": float(done)} for done, row in enumerate(rows, 1)]
    raise ValueError(f"its epochs are {list_some(found, 8)}, and should be 1, 2, 3, ...")


def _columns(rows: Iterable[Mapping[str, float | int]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        if not _COLUMN.fullmatch(name):
            raise ConfigError(
                f"metrics.csv: column {name!r} must begin with a letter and hold only letters, "
                f"digits and _ . / -; rename the loss term or metric"
            )
    return columns


def _cell(value: float | int) -> str:
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))
