"""Strips and swatches as SVG: the small drawings in tables and legends of a page.

Text stays text, and colors are CSS classes of ``chart.css``, for light and dark pages. Charts with
axes are drawn by matplotlib: see ``canvas``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

STYLE = Path(__file__).with_name("chart.css")
_LETTER = 7  # largest width of a letter, in units of the viewBox
_GAP = 5  # smallest distance of two labels


@dataclass(frozen=True)
class Scale:
    """Maps values to positions on an axis.

    Attributes:
        low, high: values at its ends.
    """

    low: float
    high: float

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """0 at the low end, 1 at the high end; NaN stays NaN."""
        return (np.asarray(values, float) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """At most ``most`` round values between the ends."""
        found = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        return [round(float(v), 12) for v in found if self.low <= v <= self.high][:most]


def fit_scale(values: Iterable[float], margin: float = 0.06) -> Scale:
    """The scale of all finite values, with a margin at either end."""
    finite = [v for v in values if math.isfinite(v)] or [1.0]
    low, high = min(finite), max(finite)
    spare = (high - low) * margin or abs(high) * margin or 1.0
    return Scale(low - spare, high + spare)


STRIP = (132, 18)  # width and height of a strip, units of the viewBox


def draw_strip(values: Sequence[float], scale: Scale, css: str, label: str) -> Markup:
    """One dot per value and a tick at their mean, for a table cell."""
    width, height = STRIP
    across = [_number(_across_strip(scale, value)) for value in values]
    dots = Markup().join(Markup('<circle cx="{}" cy="9" r="3"/>').format(x) for x in across)
    mean = _number(_across_strip(scale, sum(values) / len(values)))
    return Markup(
        '<svg class="strip {}" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="grid" d="M0,9h{}"/>{}<path class="mean" d="M{},2v14"/></svg>'
    ).format(css, width, height, label, width, dots, mean)


def draw_strip_axis(scale: Scale) -> Markup:
    """The axis above a column of strips; its name and unit are in the column header."""
    width, height = STRIP
    # As many ticks as there is room for their labels.
    found = (_place_labels(scale, most) for most in (5, 4, 3, 2, 1))
    labels = next(labels for labels in found if _are_apart(labels) or len(labels) < 2)
    marks = [
        Markup('{}<path class="axis" d="M{},13v5"/>').format(
            _text(_number(label.middle), 10, label.text, "middle"), _number(label.tick)
        )
        for label in labels
    ]
    return Markup(
        '<svg class="strip" viewBox="0 0 {} {}" aria-hidden="true">{}'
        '<path class="axis" d="M0,17.5h{}"/></svg>'
    ).format(width, height, Markup().join(marks), width)


def draw_swatch(css: str) -> Markup:
    """A short line, for legends."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">'
        '<path class="line {}" d="M0,5h30"/></svg>'
    ).format(css)


class _Label(NamedTuple):
    """A tick and its label, which stays within the strip."""

    tick: float
    middle: float
    half: float
    text: str


def _place_labels(scale: Scale, most: int) -> list[_Label]:
    width, _ = STRIP
    labels = []
    for value in scale.ticks(most):
        tick, text = _across_strip(scale, value), _tick(value)
        half = _LETTER * len(text) / 2
        labels.append(_Label(tick, min(max(tick, half), width - half), half, text))
    return labels


def _are_apart(labels: Sequence[_Label]) -> bool:
    return all(a.middle + a.half + _GAP <= b.middle - b.half for a, b in pairwise(labels))


def _across_strip(scale: Scale, value: float) -> float:
    return 6 + float(scale.place([value])[0]) * (STRIP[0] - 12)


def _text(x: float | str, y: float | str, text: str, css: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(x, y, css, text)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
