"""Rows as columns of text, for terminals and Markdown: a thin layer over ``tabulate``."""

import re
from collections.abc import Sequence

from tabulate import tabulate

_NUMBER = re.compile(r"[<±+\-\N{MINUS SIGN}]?\d[\d,.]*( %)?")
_NOTHING = ("", "-")


def align_columns(rows: Sequence[Sequence[str]], heads: int = 1) -> str:
    """Columns for a terminal, with a rule under the header; numeric columns are right-aligned.

    Args:
        rows: cells, printed as they are; all rows have the same length.
        heads: the number of header rows.
    """
    names = ["\n".join(cells) for cells in zip(*rows[:heads], strict=True)]
    sides = ["right" if _is_numeric(column) else "left" for column in _columns(rows[heads:], names)]
    return "\n".join(line.rstrip() for line in _tabulate(names, rows[heads:], "simple", sides))


def write_markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A GitHub Markdown table; the first column is left-aligned, all others right-aligned.

    Args:
        rows: cells, already escaped; the first row is the header.
    """
    head, *body = rows
    return "\n".join(_tabulate(head, body, "pipe", ["left", *["right"] * (len(head) - 1)]))


def _tabulate(
    head: Sequence[str], rows: Sequence[Sequence[str]], style: str, sides: Sequence[str]
) -> list[str]:
    # Keep text from being parsed as numbers: "1e5" and "0.50" must not change.
    options = {"disable_numparse": True, "colalign": sides if rows else None}
    return str(tabulate(rows, head, tablefmt=style, **options)).splitlines()


def _columns(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[Sequence[str]]:
    return list(zip(*rows, strict=True)) if rows else [() for _ in names]


def _is_numeric(column: Sequence[str]) -> bool:
    found = [cell for cell in column if cell not in _NOTHING]
    return bool(found) and all(_NUMBER.fullmatch(cell) for cell in found)
