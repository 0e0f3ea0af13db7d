"""Small charts as SVG: lines, bands and dots on one pair of axes.

Text stays text, and colours are classes that ``chart.css`` fills in for light and for dark; so one
drawing serves both, and the charts of a hundred methods take less than a second.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

COLOURS, DASHES = 7, 4  # that chart.css knows: c1 to c7, d0 to d3
# Room around the plot for tick labels and names of axes, and what a letter takes at most, in units
# of the viewBox.
_TOP, _RIGHT, _BOTTOM, _LETTER = 18, 12, 32, 7
_GAP = 5  # between two labels, at least
_POINT = 3  # half the width of a line or band that has one point only


@dataclass(frozen=True)
class Scale:
    """Values to places on an axis.

    Attributes:
        low, high: values at its ends.
        log: logarithmic; both ends are positive then.
        whole: ticks at whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """0 at the low end, 1 at the high end; NaN stays NaN."""
        found = np.asarray(values, float)
        if not self.log:
            return (found - self.low) / (self.high - self.low)
        return np.log(found / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[float]:
        """Round values between the ends, at most so many."""
        return self._log_ticks(most) if self.log else self._even_ticks(most)

    def _even_ticks(self, most: int) -> list[float]:
        least = (self.high - self.low) / most
        for step in _round_steps(max(least, 1.0) if self.whole else least):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                return [round(i * step, 12) for i in range(first, last + 1)]
        raise AssertionError  # the steps grow without end

    def _log_ticks(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [digit * 10.0**power for power in powers for digit in digits]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                break
        return found if len(found) > 1 else self._even_ticks(most)


def fit_scale(values: Iterable[float], *, log: bool = False, margin: float = 0.06) -> Scale:
    """The scale that shows all finite values (of a logarithmic one: all positive ones).

    Args:
        values: to be shown.
        log: whether the scale is logarithmic.
        margin: free part beyond either end.
    """
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        spare = max((high / low) ** margin, 1.15)
        return Scale(low / spare, high * spare, log=True)
    spare = (high - low) * margin or abs(high) * margin or 1.0
    return Scale(low - spare, high + spare)


class Chart:
    """One pair of axes; later marks lie on earlier ones.

    Args:
        label: what is shown, for those who cannot see it.
        x, y: scales of the axes.
        x_name, y_name: what the axes show, with units.
        size: width and height, units of the viewBox.
        ticks: at most so many on either axis.
    """

    def __init__(
        self,
        label: str,
        x: Scale,
        y: Scale,
        *,
        x_name: str,
        y_name: str,
        size: tuple[int, int],
        ticks: tuple[int, int] = (6, 6),
    ) -> None:
        self.label, self.x, self.y = label, x, y
        self.x_name, self.y_name = x_name, y_name
        self.size, self._ticks = size, ticks
        self._left = 8 + _LETTER * max(len(_tick(value)) for value in (0, *y.ticks(ticks[1])))
        self.plot = size[0] - self._left - _RIGHT, size[1] - _TOP - _BOTTOM  # width, height
        self._marks: list[Markup] = []

    def line(self, x: np.ndarray, y: np.ndarray, css: str, title: str = "") -> None:
        """A line with gaps where ``y`` is NaN; ``title`` appears under the pointer."""
        path = "".join("M" + _points(*_visible(*run)) for run in self._runs(x, y))
        name = Markup("<title>{}</title>").format(title) if title else ""
        self._marks.append(Markup('<path class="line {}" d="{}">{}</path>').format(css, path, name))

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, css: str) -> None:
        """The area between two lines."""
        for (across, down), (_, up) in zip(
            self._runs(x, low + 0 * high), self._runs(x, high + 0 * low), strict=True
        ):
            (across, down), (_, up) = _visible(across, down), _visible(across, up)
            ring = np.concatenate([across, across[::-1]]), np.concatenate([down, up[::-1]])
            self._marks.append(
                Markup('<path class="band {}" d="M{}Z"/>').format(css, _points(*ring))
            )

    def level(self, y: float, css: str, title: str = "") -> None:
        """A line across the plot."""
        self.line(np.array([self.x.low, self.x.high]), np.array([y, y]), f"level {css}", title)

    def share(self, name: str) -> Markup:
        """The marks so far, to be put on a page once and shown by ``show`` in other charts."""
        marks = Markup().join(self._marks)
        return Markup('<svg class="shared"><defs><g id="{}">{}</g></defs></svg>').format(
            name, marks
        )

    def show(self, name: str) -> None:
        """Marks that were shared by a chart of the same size and scales."""
        self._marks.append(Markup('<use href="#{}"/>').format(name))

    def render(self) -> Markup:
        """The chart as an ``<svg>`` element."""
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
            '{}<svg x="{}" y="{}" width="{}" height="{}">{}</svg></svg>'
        ).format(
            *self.size,
            self.label,
            Markup().join([*self._names(), *self._x_axis(), *self._y_axis()]),
            *(self._left, _TOP, *self.plot),
            Markup().join(self._marks),
        )

    def _names(self) -> Iterable[Markup]:
        yield _text(0, 9, self.y_name, "name")
        yield _text(self.size[0] - _RIGHT, self.size[1] - 4, self.x_name, "name end")

    def _x_axis(self) -> Iterable[Markup]:
        bottom = _TOP + self.plot[1]
        yield Markup('<path class="axis" d="M{},{}h{}"/>').format(self._left, bottom, self.plot[0])
        values = self.x.ticks(self._ticks[0])
        for value, place in zip(values, self.x.place(values), strict=True):
            across = _number(self._left + place * self.plot[0])
            yield Markup('<path class="axis" d="M{},{}v3"/>').format(across, bottom)
            yield _text(across, bottom + 13, _tick(value), "middle")

    def _y_axis(self) -> Iterable[Markup]:
        values = self.y.ticks(self._ticks[1])
        for value, place in zip(values, self.y.place(values), strict=True):
            down = _TOP + (1 - place) * self.plot[1]
            grid = '<path class="grid" d="M{},{}h{}"/>'
            yield Markup(grid).format(self._left, _number(down), self.plot[0])
            yield _text(self._left - 5, _number(down + 3.5), _tick(value), "end")

    def _runs(self, x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        across = self.x.place(x) * self.plot[0]
        down = (1 - self.y.place(y)) * self.plot[1]
        kept = np.flatnonzero(np.isfinite(down))
        parts = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1) if len(kept) else []
        return [(across[part], down[part]) for part in parts]


STRIP = (132, 18)  # width and height of a strip, units of the viewBox


def draw_strip(values: Sequence[float], scale: Scale, css: str, label: str) -> Markup:
    """One small dot a value and a tick at their mean: a cell of a table, drawn."""
    width, height = STRIP
    across = [_number(_across_strip(scale, value)) for value in values]
    dots = Markup().join(Markup('<circle cx="{}" cy="9" r="3"/>').format(x) for x in across)
    mean = _number(_across_strip(scale, sum(values) / len(values)))
    return Markup(
        '<svg class="strip {}" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="grid" d="M0,9h{}"/>{}<path class="mean" d="M{},2v14"/></svg>'
    ).format(css, width, height, label, width, dots, mean)


def draw_strip_axis(scale: Scale) -> Markup:
    """The axis above a column of strips; its name and unit stand in the head of the column."""
    width, height = STRIP
    # As many ticks as have room for their labels.
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
    """A piece of a line, for legends."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">'
        '<path class="line {}" d="M0,5h30"/></svg>'
    ).format(css)


class _Label(NamedTuple):
    """A tick and its label, which does not reach beyond the ends of the strip."""

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


def _visible(across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One point as a short dash, which can be seen; more as they are."""
    if len(across) > 1:
        return across, down
    return np.concatenate([across - _POINT, across + _POINT]), np.repeat(down, 2)


def _points(across: np.ndarray, down: np.ndarray) -> str:
    pairs = zip(across.round(1).tolist(), down.round(1).tolist(), strict=True)
    return " ".join(f"{x:g},{y:g}" for x, y in pairs)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _round_steps(least: float) -> Iterable[float]:
    power = math.floor(math.log10(least))
    while True:
        yield from (step for digit in (1, 2, 5) if (step := digit * 10.0**power) >= least)
        power += 1
