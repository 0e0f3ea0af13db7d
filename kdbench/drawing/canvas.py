"""Figures with matplotlib: without its global state, and with reproducible bytes.

A drawing is a grid of charts. As a file it is one page; in a report each chart is a separate
``<svg>`` with the colors of ``chart.css``, so that it adapts to light, dark and narrow pages.
"""

import base64
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from kdbench.files import write_atomic

FORMATS = ("pdf", "svg", "png")
# The light colors of chart.css, by the same names.
COLOURS = {
    **{"ink": "#1b1f24", "mute": "#5b6470", "rule": "#c9ced6", "faint": "#e6e9ee"},
    **{"c1": "#0072b2", "c2": "#c8500a", "c3": "#00805e", "c4": "#b8578f"},
    **{"c5": "#8a6a00", "c6": "#2487bd", "c7": "#6b4fb3"},
}
_ALIASES = {"base": "ink", "both": "ink", "alone": "mute", "teacher": "c1", "student": "c2"}
_DASHES = {"d1": (6, 3), "d2": (1.5, 2.5), "d3": (9, 3, 2, 3), "student": (6, 3)}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same layout everywhere
    "font.size": 8,
    "text.parse_math": False,  # a label may contain a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "kdbench",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "lines.linewidth": 1.4,
    "lines.scale_dashes": False,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["mute"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["faint"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["mute"],
    "ytick.left": False,
    "ytick.labelcolor": COLOURS["mute"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_INCH = 72  # points
# Room in a cell around the axes, inches: left, right, bottom, top.
_MARGINS = (0.5, 0.12, 0.46, 0.3)
_LEGEND_ROW, _LETTER, _TITLE_LETTER = 0.17, 0.075, 0.075  # inches
_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)


@dataclass(frozen=True)
class Panel:
    """One chart of a drawing.

    Attributes:
        title: above it.
        label: description for screen readers.
        draw: draws it onto the axes.
    """

    title: str
    label: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: of its file, without extension.
        panels: its charts, row by row.
        columns: charts per row.
        size: of a cell, inches.
        legend: label and CSS classes of each line; empty for no legend.
        margin: additional space to the right of the axes, inches.
    """

    name: str
    panels: Sequence[Panel]
    columns: int
    size: tuple[float, float]
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    margin: float = 0.0


@dataclass(frozen=True)
class PageFigure:
    """A drawing in a report: its charts, and a link to save it as a file."""

    charts: Sequence[Markup]
    file: str
    href: str


def colour(css: str) -> str:
    """The color of a line, from its CSS classes."""
    first = css.split()[0]
    return COLOURS[_ALIASES.get(first, first)]


def style(css: str) -> dict[str, Any]:
    """Color and line style, from CSS classes."""
    dashes = next((_DASHES[name] for name in css.split() if name in _DASHES), None)
    return {"color": colour(css), "linestyle": "-" if dashes is None else (0, dashes)}


def line(axes: Axes, x: np.ndarray, y: np.ndarray, css: str, name: str = "", **more: Any) -> None:
    """Draws a line with gaps where ``y`` is NaN; as a dot if it has only one point."""
    marker = "o" if np.isfinite(y).sum() == 1 else None
    (drawn,) = axes.plot(x, y, marker=marker, markersize=3, **{**style(css), **more})
    if name:
        drawn.set_gid(f"row {clean(name)}")


def clean(text: str) -> str:
    """Replaces what XML and fonts do not support: control characters, lone surrogates."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, css: str) -> None:
    """Fills the area between two lines."""
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        axes.fill_between(x, low, high, where=known, color=colour(css), alpha=0.2, linewidth=0)


def set_scales(
    axes: Axes, x: tuple[float, float], y: tuple[float, float], *, names: tuple[str, str],
    log: bool = False, ticks: int = 5,
) -> None:  # fmt: skip
    """Sets limits, names and round ticks of both axes; x counts epochs."""
    axes.set_xlim(*x)
    axes.set_yscale("log" if log else "linear")
    axes.set_ylim(*y)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(names[0], loc="right", labelpad=4)
    axes.set_ylabel("")
    if log:
        decades = np.log10(y[1] / y[0])
        subs = (1.0,) if decades > 4 else (1.0, 3.0) if decades > 2 else (1.0, 2.0, 5.0)
        if decades < 0.5:
            axes.yaxis.set_major_locator(MaxNLocator(ticks))
        else:
            axes.yaxis.set_major_locator(LogLocator(10, subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))


def save(
    drawing: Drawing, folder: Path, prefix: str = "", formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Writes a drawing in some formats, on a white background.

    Raises:
        ResourceError: a file cannot be written.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _lay_out(drawing)
        paths = []
        for ending in formats:
            path = folder / f"{prefix}{drawing.name}.{ending}"
            write_atomic(path, _render(figure, ending))
            paths.append(path)
    return paths


def show(drawing: Drawing, prefix: str, number: int) -> PageFigure:
    """A drawing for a page.

    Args:
        drawing: the drawing.
        prefix: of the name of its SVG file.
        number: of its section in the page.
    """
    scope = f"{drawing.name}-{number}"
    with matplotlib.rc_context(_STYLE):
        figure = _lay_out(drawing)
        content = _render(figure, "svg")
    href = "data:image/svg+xml;base64," + base64.b64encode(_shorten(content)).decode()
    charts = [
        _to_chart(group, panel, cell, scope)
        for group, panel, cell in zip(
            _axes_groups(_shorten(content)), drawing.panels, _cells(drawing), strict=True
        )
    ]
    return PageFigure(charts, f"{prefix}{drawing.name}.svg", href)


def _lay_out(drawing: Drawing) -> Figure:
    width, height = _size(drawing)
    figure = Figure(figsize=(width, height))
    left, right, bottom, top = _MARGINS
    for panel, (x, y, w, h) in zip(drawing.panels, _cells(drawing), strict=True):
        inside = w - left - right - drawing.margin, h - bottom - top
        place = (x + left) / width, (height - y - h + bottom) / height
        axes = figure.add_axes((*place, inside[0] / width, inside[1] / height))
        panel.draw(axes)
        axes.set_title(_cut(panel.title, w), x=-left / inside[0] * 0.85, pad=6)
    if drawing.legend:
        _draw_legend(figure, drawing)
    return figure


def _cut(title: str, width: float) -> str:
    most = int((width - 0.1) / _TITLE_LETTER)
    whole = clean(title)
    return whole if len(whole) <= most else whole[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _draw_legend(figure: Figure, drawing: Drawing) -> None:
    lines = [Line2D([], [], **style(css)) for _, css in drawing.legend]
    names = [clean(name) for name, _ in drawing.legend]
    figure.legend(
        lines, names, loc="lower left", bbox_to_anchor=(0, 0), ncols=_legend_columns(drawing),
        frameon=False, labelcolor=COLOURS["ink"], borderaxespad=0.2, handlelength=2.4,
    )  # fmt: skip


def _legend_columns(drawing: Drawing) -> int:
    longest = max(len(name) for name, _ in drawing.legend)
    return max(1, int(drawing.columns * drawing.size[0] / (0.55 + _LETTER * longest)))


def _size(drawing: Drawing) -> tuple[float, float]:
    """Width and height of the whole figure, inches."""
    lines = -(-len(drawing.panels) // drawing.columns)
    legend = 0.0
    if drawing.legend:
        legend = 0.15 + _LEGEND_ROW * -(-len(drawing.legend) // _legend_columns(drawing))
    return drawing.columns * drawing.size[0], lines * drawing.size[1] + legend


def _cells(drawing: Drawing) -> Iterator[tuple[float, float, float, float]]:
    """Left, top, width and height of each chart, inches."""
    width, height = drawing.size
    for place in range(len(drawing.panels)):
        row, column = divmod(place, drawing.columns)
        yield column * width, row * height, width, height


def _render(figure: Figure, ending: str) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # shown as a box
        figure.savefig(file, format=ending, dpi=200, metadata=_NO_DATES[ending], facecolor="white")
    return file.getvalue()


def _shorten(svg: bytes) -> bytes:
    """Rounds to hundredths of a point; drops comments and the document type."""
    text = re.sub(r"(\d+\.\d{2})\d+", r"\1", svg.decode())
    text = re.sub(r"<!--.*?-->|<!DOCTYPE[^>]*>", "", text, flags=re.DOTALL)
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    return re.sub(r"\s*\n\s*", "\n", text).encode()


def _axes_groups(svg: bytes) -> Iterator[ElementTree.Element]:
    """The group of each axes, with the clip paths that it refers to."""
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{_SVG}}}g"):
        if group.get("id", "").startswith("axes_"):
            wanted = set(re.findall(r"url\(#(\w+)\)", ElementTree.tostring(group, "unicode")))
            clips = [clip for clip in root.iter(f"{{{_SVG}}}clipPath") if clip.get("id") in wanted]
            defs = ElementTree.Element(f"{{{_SVG}}}defs")
            defs.extend(clips)
            group.insert(0, defs)
            yield group


def _to_chart(
    group: ElementTree.Element,
    panel: Panel,
    cell: tuple[float, float, float, float],
    scope: str,
) -> Markup:
    """An ``<svg>``; ``scope`` makes its ids unique among all drawings."""
    for part in group.iter():
        name = part.attrib.pop("id", "")
        if name.startswith("row "):
            part.set("class", "row")
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = name.removeprefix("row ")
            part.insert(0, title)
        elif part.tag.endswith(("clipPath", "}path")) and name:
            part.set("id", name)
    content = ElementTree.tostring(group, "unicode")
    # A chart may refer to a shape in an earlier chart of the same drawing.
    content = re.sub(r'((?: id="|#)[mp][0-9a-f]{10})(?=[")])', rf"\1-{scope}", content)
    for name, value in COLOURS.items():
        content = content.replace(value, f"var(--{name})")
    x, y, width, height = (f"{_INCH * number:g}" for number in cell)
    return Markup(
        '<svg class="chart" viewBox="{} {} {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(x, y, width, height, panel.label, Markup(content))
