"""Figures of a report: learning curves, differences, temperatures, cost against accuracy.

Each function takes the groups of one column of a table and describes a drawing; ``canvas`` renders
it, on a page or to a file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

from kdbench.drawing import canvas
from kdbench.drawing.canvas import Drawing, Panel
from kdbench.records.identity import slug
from kdbench.report.curves import WHO, CellRuns, mean_over, spread_over

COLOURS, DASHES = 7, 4  # defined in chart.css and canvas.py: c1 to c7, d0 to d3
MAX_BANDS = 6  # more bands in one chart would hide each other
LAST = 0.25  # fraction of training in the enlarged chart
_WIDE, _PANEL, _PANELS = (4.6, 3.2), (2.3, 1.85), 4

Styles = Mapping[str, str]  # row -> CSS classes of its line
Limits = tuple[float, float]
_Shown = TypeVar("_Shown")


def choose_styles(
    rows: Sequence[str], baseline: str | None, alone: Sequence[str]
) -> dict[str, str]:
    """A line style for every row of a table, the same in all figures.

    Args:
        rows: labels.
        baseline: the row in the text color.
        alone: rows of students without a teacher, in gray.
    """
    styles = {row: "alone d2" for row in alone}
    if baseline is not None:
        styles[baseline] = "base d0"
    others = [row for row in rows if row not in styles]
    for place, row in enumerate(others):
        styles[row] = f"c{place % COLOURS + 1} d{place // COLOURS % DASHES}"
    return styles


def draw_all(
    groups: Sequence[CellRuns], baseline: CellRuns | None, styles: Styles
) -> list[Drawing]:
    """All figures of a column, without empty ones."""
    found = [
        draw_learning(groups, styles),
        draw_learning_rows(groups, styles),
        draw_differences(groups, baseline, styles),
        draw_temperatures(groups, styles),
        draw_temperature_means(groups, styles),
        draw_cost(groups, styles),
    ]
    return [drawing for drawing in found if drawing is not None]


def write_figures(
    folder: Path, columns: Mapping[str, Sequence[CellRuns]], baseline: str | None, styles: Styles
) -> list[Path]:
    """Writes every figure of a table as PDF, SVG and PNG; returns the paths.

    Args:
        folder: created if missing.
        columns: label -> groups; with several columns, file names begin with the label.
        baseline: row that the others are compared with.
        styles: of the rows.

    Raises:
        ResourceError: a file cannot be written.
    """
    paths = []
    for column, groups in columns.items():
        prefix = f"{slug(column)}-" if len(columns) > 1 else ""
        base = next((group for group in groups if group.row == baseline), None)
        for drawing in draw_all(groups, base, styles):
            paths += canvas.save(drawing, folder, prefix)
    return paths


def draw_learning(groups: Sequence[CellRuns], styles: Styles) -> Drawing | None:
    """Accuracy over training, and the last part of it enlarged."""
    shown = [group for group in groups if group.accuracy in group.curves]
    if not shown:
        return None
    split = "validation" if shown[0].accuracy.startswith("val") else "test"
    name = f"{split} accuracy (top-1), %"
    epochs = _count_epochs(shown)
    first = _first_of_last(epochs)

    def draw(axes: Axes, start: int, ranged: Sequence[CellRuns]) -> None:
        _scale_epochs(axes, start, epochs, _learning_range(ranged, start))
        for group in sorted(shown, key=lambda group: styles[group.row].startswith("base")):
            _draw_accuracy(axes, group, styles[group.row], with_band=len(shown) <= MAX_BANDS)

    panels = [Panel(name, f"{name}, over training", lambda axes: draw(axes, 1, shown))]
    if first > 1:
        # A student alone is often so far below that the other curves would merge.
        distilled = [group for group in shown if group.has_teacher] or shown
        title = f"the last {100 * LAST:.0f} %, enlarged"
        late = Panel(title, f"{name}, {title}", lambda axes: draw(axes, first, distilled))
        panels.append(late)
    last = {group.row: float(group.mean(group.accuracy)[-1]) for group in shown}
    rows = sorted(last, key=lambda row: -last[row])
    legend = [(f"{row}  {last[row]:.1f} %", styles[row]) for row in rows]
    return Drawing("learning", panels, len(panels), _WIDE, legend)


def draw_learning_rows(groups: Sequence[CellRuns], styles: Styles) -> Drawing | None:
    """The last part of training: one chart per row with a teacher, all means in gray."""
    shown = [g for g in groups if g.has_teacher and g.accuracy in g.curves]
    if len(shown) < 2:
        return None
    epochs = _count_epochs(shown)
    first = _first_of_last(epochs)
    limits = _learning_range(shown, first)

    def draw(axes: Axes, group: CellRuns) -> None:
        _scale_epochs(axes, first, epochs, limits, ticks=4)
        for other in shown:
            behind: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.5}
            canvas.line(axes, *_over_epochs(other.mean(other.accuracy)), "alone", **behind)
        _draw_accuracy(axes, group, _solid(styles[group.row]), with_band=True)

    return _small("learning-rows", "accuracy over training, %", shown, draw)


def draw_differences(
    groups: Sequence[CellRuns], baseline: CellRuns | None, styles: Styles
) -> Drawing | None:
    """Accuracy of each row minus that of the baseline at the same epoch, paired by seed."""
    if baseline is None:
        return None
    curves = {g.row: _difference(g, baseline) for g in groups if g is not baseline}
    shown = [g for g in groups if g.has_teacher and g.row in curves and curves[g.row].size]
    if not shown:
        return None
    means = {group.row: mean_over(curves[group.row]) for group in shown}
    limit = _difference_limit(list(means.values()))
    epochs = max(map(len, means.values()))

    def draw(axes: Axes, group: CellRuns) -> None:
        _scale_epochs(axes, 1, epochs, (-limit, limit), ticks=4)
        axes.axhline(0, color=canvas.colour("base"), linewidth=0.8)
        mean, css = means[group.row], _solid(styles[group.row])
        spread = spread_over(curves[group.row])
        x, _ = _over_epochs(mean)
        canvas.band(axes, x, mean - spread, mean + spread, css)
        canvas.line(axes, x, mean, css, group.row)

    return _small("difference", f"minus {baseline.row}, points", shown, draw)


def draw_temperatures(groups: Sequence[CellRuns], styles: Styles) -> Drawing | None:
    """Temperature of teacher and student over training, one chart per row on common axes."""
    shown = _with_temperature(groups)
    if not shown:
        return None
    epochs, limits = _count_epochs(shown), _temperature_range(shown)

    def draw(axes: Axes, group: CellRuns) -> None:
        _scale_epochs(axes, 1, epochs, limits, log=True, ticks=4)
        known = [who for who in WHO if f"temperature/{who}_mean" in group.curves]
        drawn = {"both": "teacher"} if _are_same(group) else {who: who for who in known}
        for css, who in drawn.items():
            low, high = group.temperature_band(who)
            canvas.band(axes, *_over_epochs(low), high, css)
        for css, who in drawn.items():  # above both bands
            mean = group.mean(f"temperature/{who}_mean")
            canvas.line(axes, *_over_epochs(mean), css, f"{group.row}: {css}")

    legend = [("teacher", "teacher"), ("student", "student"), ("both, if equal", "both")]
    return _small("temperature", "temperature", shown, draw, legend)


def draw_temperature_means(groups: Sequence[CellRuns], styles: Styles) -> Drawing | None:
    """Mean temperatures of all rows, the teacher's in one chart, the student's in another."""
    shown = _with_temperature(groups)
    if len(shown) < 2:
        return None
    epochs, limits = _count_epochs(shown), _temperature_range(shown)

    def draw(axes: Axes, name: str) -> None:
        _scale_epochs(axes, 1, epochs, limits, log=True)
        for group in shown:
            if name in group.curves:
                canvas.line(axes, *_over_epochs(group.mean(name)), styles[group.row], group.row)

    panels = []
    for who in WHO:
        name = f"temperature/{who}_mean"
        if any(name in group.curves for group in shown):
            title = f"mean {who} temperature"
            panels.append(Panel(title, f"{title} of all rows", _with(draw, name)))
    legend = [(group.row, styles[group.row]) for group in shown]
    return Drawing("temperature-means", panels, len(panels), _WIDE, legend)


def draw_cost(groups: Sequence[CellRuns], styles: Styles) -> Drawing | None:
    """Last-epoch accuracy against the time of a run alone."""
    points = {}
    for group in groups:
        pairs = [
            (run.record.alone_seconds, run.record.top1_last)
            for run in group.runs.values()
            if run.record.alone_seconds and run.record.top1_last is not None
        ]
        if pairs:
            points[group.row] = tuple(zip(*pairs, strict=True))
    if len(points) < 2:
        return None
    longest = max(x for seconds, _ in points.values() for x in seconds)
    unit, name = next((u, n) for u, n in _UNITS if longest >= 2 * u or u == 1)

    def draw(axes: Axes) -> None:
        centres = {}
        for row, (seconds, accuracies) in points.items():
            x, y = fmean(seconds) / unit, fmean(accuracies)
            spreads = [stdev(v) if len(v) > 1 else 0.0 for v in (seconds, accuracies)]
            axes.errorbar(
                x, y, xerr=spreads[0] / unit, yerr=spreads[1], fmt="o", markersize=4,
                color=canvas.colour(styles[row]), linewidth=0.8,
            )  # fmt: skip
            centres[row] = (x, y)
        axes.margins(0.08, 0.08)
        axes.set_xlabel(f"time of a run alone, {name}", loc="right", labelpad=4)
        _name_points(axes, centres, styles)

    longest_name = max(map(len, points))
    title = "test accuracy of the last epoch (top-1), %"
    height = max(3.4, 0.7 + 0.17 * len(points))
    margin = 0.35 + 0.075 * longest_name
    panel = Panel(title, "accuracy against the time of a run alone", draw)
    return Drawing("cost", [panel], 1, (5.6 + margin, height), margin=margin)


_UNITS = ((24 * 3600, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def _name_points(axes: Axes, centres: Mapping[str, Limits], styles: Styles) -> None:
    """Labels the points in a column on the right, in their order, connected by thin lines."""
    low, high = axes.get_ylim()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(low, high)
    rows = sorted(centres, key=lambda row: centres[row][1])
    height = axes.get_window_extent().height / axes.figure.dpi  # inches
    least = 0.15 / height  # between two labels
    wanted = [(centres[row][1] - low) / (high - low) for row in rows]
    for row, place in zip(rows, _spread_apart(wanted, least), strict=True):
        thin = {"color": canvas.colour("alone"), "linewidth": 0.4, "alpha": 0.5}
        thin |= {"relpos": (0, 0.5)}  # starts at the left of the label
        axes.annotate(
            canvas.clean(row),
            xy=centres[row],
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            color=canvas.colour(styles[row]),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "shrinkA": 0, "shrinkB": 3, **thin},
        )


def _spread_apart(wanted: Sequence[float], least: float) -> list[float]:
    """Ascending positions near the wanted ones, at least ``least`` apart, in [0, 1] if they fit."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + least) if places else place)
    top = max(1.0, least * (len(places) - 1))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - least
    return places


def _small(
    name: str,
    label: str,
    groups: Sequence[CellRuns],
    draw: Callable[[Axes, CellRuns], None],
    legend: Sequence[tuple[str, str]] = (),
) -> Drawing:
    """A small chart per row."""
    panels = [Panel(group.row, f"{group.row}: {label}", _with(draw, group)) for group in groups]
    return Drawing(name, panels, min(_PANELS, len(panels)), _PANEL, legend)


def _draw_accuracy(axes: Axes, group: CellRuns, css: str, with_band: bool) -> None:
    mean = group.mean(group.accuracy)
    x, _ = _over_epochs(mean)
    if with_band:
        spread = spread_over(group.curves[group.accuracy])
        canvas.band(axes, x, mean - spread, mean + spread, css)
    canvas.line(axes, x, mean, css, group.row)


def _scale_epochs(
    axes: Axes, first: int, last: int, y: Limits, *, log: bool = False, ticks: int = 6
) -> None:
    x = (first - 0.5, last + 0.5) if first == last else (first, last)  # center a single epoch
    canvas.set_scales(axes, x, y, names=("epoch", ""), log=log, ticks=ticks)


def _difference(group: CellRuns, baseline: CellRuns) -> np.ndarray:
    """Differences over common seeds and epochs, [seeds, epochs]."""
    name = group.accuracy
    if name not in group.curves or name not in baseline.curves:
        return np.empty((0, 0))
    places, others = list(group.runs), list(baseline.runs)
    shared = [seed for seed in places if seed in baseline.runs]
    ours = group.curves[name][[places.index(seed) for seed in shared]]
    theirs = baseline.curves[name][[others.index(seed) for seed in shared]]
    epochs = min(ours.shape[1], theirs.shape[1])
    return ours[:, :epochs] - theirs[:, :epochs]


def _difference_limit(means: Sequence[np.ndarray]) -> float:
    """A limit that shows the second half of all rows, and most of the first half.

    Outliers in the first epochs must not flatten the other curves.
    """
    known = [np.abs(mean[np.isfinite(mean)]) for mean in means]
    late = [size for mean in known for size in mean[len(mean) // 2 :].tolist()]
    early = np.quantile(np.concatenate(known), 0.95) if late else 1.0
    return 1.1 * max(float(early), *late, 0.1)


def _with_temperature(groups: Sequence[CellRuns]) -> list[CellRuns]:
    return [g for g in groups if any(f"temperature/{who}_mean" in g.curves for who in WHO)]


def _count_epochs(groups: Sequence[CellRuns]) -> int:
    return max(curves.shape[1] for group in groups for curves in group.curves.values())


def _temperature_range(groups: Sequence[CellRuns]) -> Limits:
    """A range with all means, and bands up to a factor of two beyond: they may have outliers."""
    means, ends = [], []
    for group in groups:
        for who in WHO:
            if f"temperature/{who}_mean" in group.curves:
                means += group.mean(f"temperature/{who}_mean").tolist()
                ends += [value for end in group.temperature_band(who) for value in end.tolist()]
    low, high = fit_range(means, log=True)
    return fit_range([*means, *(v for v in ends if low / 2 <= v <= high * 2)], log=True)


def _learning_range(groups: Sequence[CellRuns], first: int = 1) -> Limits:
    found = []
    for group in groups:
        mean = group.mean(group.accuracy)[first - 1 :]
        spread = np.nan_to_num(spread_over(group.curves[group.accuracy])[first - 1 :])
        found += [*(mean - spread).tolist(), *(mean + spread).tolist()]
    return fit_range(found)


def fit_range(values: Sequence[float], *, log: bool = False, margin: float = 0.06) -> Limits:
    """Limits of an axis that shows all finite (if logarithmic, positive) values."""
    finite = [v for v in values if np.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        spare = max((high / low) ** margin, 1.15)
        return low / spare, high * spare
    spare = (high - low) * margin or abs(high) * margin or 1.0
    return low - spare, high + spare


def _over_epochs(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, len(curve) + 1), curve


def _first_of_last(epochs: int) -> int:
    """The first epoch of the last part; 1 if that part would be too short."""
    first = 1 + int(epochs * (1 - LAST))
    return first if epochs - first >= 3 else 1


def _solid(css: str) -> str:
    """A row's color without dashes, which have no meaning in a chart of its own."""
    return css.split()[0]


def _are_same(group: CellRuns) -> bool:
    """Whether teacher and student have equal temperatures, so that lines would coincide."""
    teacher, student = (group.curves.get(f"temperature/{who}_mean") for who in WHO)
    if teacher is None or student is None:
        return False
    return np.allclose(teacher, student, rtol=1e-6, equal_nan=True)


def _with(draw: Callable[[Axes, _Shown], None], shown: _Shown) -> Callable[[Axes], None]:
    """Binds the argument of a panel's drawing function."""
    return lambda axes: draw(axes, shown)
