"""Curves of a run that belong in one W&B chart: W&B's own panels have one metric each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Rows = Sequence[Mapping[str, float | int]]  # one per epoch, as in metrics.csv
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
    """The lines of a chart.

    Attributes:
        title: of the chart.
        epochs: [epochs].
        lines: name -> [epochs]; NaN for missing values.
    """

    title: str
    epochs: list[float]
    lines: Mapping[str, list[float]]


def collect_curves(rows: Rows) -> dict[str, Curves]:
    """All charts of a run, by their name in W&B; empty ones are left out.

    Args:
        rows: one per epoch, as in ``metrics.csv``.
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
