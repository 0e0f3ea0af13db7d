"""Curves of one run that belong into one chart of W&B's: its own panels have one metric each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Rows = Sequence[Mapping[str, float | int]]  # one an epoch, as in metrics.csv
_NAMES = {
    "figures/accuracy": ("Top-1 after each epoch, %", "{}/top1", ("train", "val", "test")),
    "figures/temperature": (
        "Temperature: mean, and 5 % to 95 % of the samples",
        "temperature/{}",
        tuple(f"{who}_{part}" for who in ("teacher", "student") for part in ("mean", "p5", "p95")),
    ),
}


@dataclass(frozen=True)
class Curves:
    """Lines of one chart.

    Attributes:
        title: of the chart.
        epochs: [epochs].
        lines: name -> [epochs]; NaN where a row has no value.
    """

    title: str
    epochs: list[float]
    lines: Mapping[str, list[float]]


def collect_curves(rows: Rows) -> dict[str, Curves]:
    """All charts of a run, by the name under which W&B has them; those without a line are left out.

    Args:
        rows: one an epoch, as in ``metrics.csv``.
    """
    found = {}
    for chart, (title, pattern, names) in _NAMES.items():
        lines = {
            name.replace("_", " "): [float(row.get(pattern.format(name), "nan")) for row in rows]
            for name in names
            if any(pattern.format(name) in row for row in rows)
        }
        if lines:
            found[chart] = Curves(title, [float(row["epoch"]) for row in rows], lines)
    return found
