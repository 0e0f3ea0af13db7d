"""The temperatures of one run as a page of its own, which W&B shows beside the run's curves.

A chart of W&B's own would need a table, and W&B copies tables into the user's home.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdbench.results import svg

_STYLE = Path(svg.__file__).with_name("chart.css")
_PAGE = """<!doctype html><meta charset="utf-8"><title>Temperature</title>
<style>{style} body {{ color: var(--ink); background: var(--paper); font-family: sans-serif }}
figure {{ margin: 0 auto; max-width: 60em }}</style>
<figure>{chart}<figcaption>Temperature in each epoch: mean, and band between the 5 % and the 95 %
quantile over samples. Teacher solid, student dashed.</figcaption></figure>
"""


def temperature_page(rows: Sequence[Mapping[str, float | int]]) -> str | None:
    """A self-contained HTML page with mean and band of both temperatures over the epochs.

    Args:
        rows: one an epoch, as in ``metrics.csv``.

    Returns:
        None where nothing was softened.
    """
    curves = {
        who: np.array([_band(row, who) for row in rows])
        for who in ("teacher", "student")
        if any(f"temperature/{who}_mean" in row for row in rows)
    }
    if not curves:
        return None
    epochs = np.arange(1, len(rows) + 1)
    chart = svg.Chart(
        "temperatures over training",
        svg.Scale(1, max(len(rows), 2)),
        svg.fit_scale(np.concatenate(list(curves.values())).ravel(), log=True),
        x_name="epoch",
        y_name="temperature",
        size=(640, 320),
    )
    for who, curve in curves.items():
        chart.band(epochs, curve[:, 0], curve[:, 2], who)
    for who, curve in curves.items():  # above both bands
        chart.line(epochs, curve[:, 1], who, who)
    return _PAGE.format(style=_STYLE.read_text(), chart=chart.render())


def _band(row: Mapping[str, float | int], who: str) -> list[float]:
    return [row.get(f"temperature/{who}_{part}", np.nan) for part in ("p5", "mean", "p95")]
