"""The result of one run as small pages, which W&B shows beside the run's curves: figures, a table.

Charts and tables of W&B's own would need artifacts, and W&B copies those into the user's home.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from kdbench.results import svg

Rows = Sequence[Mapping[str, float | int]]  # one an epoch, as in metrics.csv

_STYLE = Markup(Path(svg.__file__).with_name("chart.css").read_text())
_PAGE = Markup("""<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>{style} body {{ color: var(--ink); background: var(--paper); font-family: sans-serif }}
figure {{ margin: 0 auto; max-width: 60em }} td {{ text-align: right; padding-left: 2em }}
th {{ text-align: left; font-weight: normal }}</style>
<figure>{content}<figcaption>{caption}</figcaption></figure>
""")
_SIZE = (640, 320)


def draw_pages(rows: Rows, numbers: Mapping[str, float]) -> dict[str, str]:
    """All pages of a run that is done, by the name under which its summary has them.

    Args:
        rows: one an epoch, as in ``metrics.csv``.
        numbers: of the run's record, by name.
    """
    pages = {
        "figures/accuracy": accuracy_page(rows),
        "figures/temperature": temperature_page(rows),
        "table/result": result_page(numbers),
    }
    return {name: page for name, page in pages.items() if page is not None}


def accuracy_page(rows: Rows) -> str | None:
    """Top-1 over the epochs; None where none was measured."""
    curves = {
        name: np.array([row.get(f"{name}/top1", np.nan) for row in rows])
        for name in ("train", "val", "test")
        if any(f"{name}/top1" in row for row in rows)
    }
    if not curves:
        return None
    scale = svg.fit_scale(np.concatenate(list(curves.values())))
    chart = _chart("accuracy over training", len(rows), scale, "top-1 (%)")
    for name, curve in curves.items():
        chart.line(_epochs(rows), curve, "alone" if name == "train" else "base", name)
    caption = f"Top-1 after each epoch: {' and '.join(curves)}. Train, on augmented batches, pale."
    return _render("Accuracy", chart.render(), caption)


def temperature_page(rows: Rows) -> str | None:
    """Mean and band of both temperatures over the epochs; None where nothing was softened."""
    curves = {
        who: np.array([_band(row, who) for row in rows])
        for who in ("teacher", "student")
        if any(f"temperature/{who}_mean" in row for row in rows)
    }
    if not curves:
        return None
    scale = svg.fit_scale(np.concatenate(list(curves.values())).ravel(), log=True)
    chart = _chart("temperatures over training", len(rows), scale, "temperature")
    for who, curve in curves.items():
        chart.band(_epochs(rows), curve[:, 0], curve[:, 2], who)
    for who, curve in curves.items():  # above both bands
        chart.line(_epochs(rows), curve[:, 1], who, who)
    caption = (
        "Temperature in each epoch: mean, and band between the 5 % and the 95 % quantile over "
        "samples. Teacher solid, student dashed."
    )
    return _render("Temperature", chart.render(), caption)


def result_page(numbers: Mapping[str, float]) -> str | None:
    """A table of the numbers of the record; None where there are none."""
    if not numbers:
        return None
    line = Markup("<tr><th>{}</th><td>{:.6g}</td></tr>")
    lines = Markup("\n").join(line.format(name, value) for name, value in numbers.items())
    caption = "top1_last is the result; top1_best is picked on the test set. Accuracies in percent."
    return _render("Result", Markup("<table>{}</table>").format(lines), caption)


def _chart(label: str, epochs: int, scale: svg.Scale, y_name: str) -> svg.Chart:
    x = svg.Scale(1, max(epochs, 2))
    return svg.Chart(label, x, scale, x_name="epoch", y_name=y_name, size=_SIZE)


def _epochs(rows: Rows) -> np.ndarray:
    return np.arange(1, len(rows) + 1)


def _band(row: Mapping[str, float | int], who: str) -> list[float]:
    return [row.get(f"temperature/{who}_{part}", np.nan) for part in ("p5", "mean", "p95")]


def _render(title: str, content: Markup, caption: str) -> str:
    """A self-contained HTML page."""
    return str(_PAGE.format(title=title, style=_STYLE, content=content, caption=caption))
