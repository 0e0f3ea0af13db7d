"""Figures of a report: learning curves, differences to the baseline, temperatures over training.

Each takes the groups of one column of a table and returns ``<svg>`` elements; ``write_figure``
makes a file of one. ``curves`` has what is drawn, ``svg`` knows how.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from kdbench.files import write_atomic
from kdbench.results.curves import WHO, Group, mean_over, spread_over
from kdbench.results.svg import COLOURS, DASHES, Chart, Scale, fit_scale

CHART_STYLE = Path(__file__).with_name("chart.css")
MAX_BANDS = 6  # more bands than these in one chart hide each other
LAST = 0.25  # part of training that the enlarged chart shows
_WIDE, _PANEL = (360, 250), (180, 144)

Styles = Mapping[str, str]  # row -> classes of its line


@dataclass(frozen=True)
class Panel:
    """A chart and its title.

    Attributes:
        title: what it shows: a row, as a rule.
        svg: the chart.
        css: classes of the row's line; empty where all rows are shown.
    """

    title: str
    svg: Markup
    css: str = ""


def choose_styles(
    rows: Sequence[str], baseline: str | None, alone: Sequence[str]
) -> dict[str, str]:
    """A line for every row of a table, the same in all figures.

    Args:
        rows: labels.
        baseline: the row in the colour of the text.
        alone: rows of students without a teacher, in grey.
    """
    styles = {row: "alone d2" for row in alone}
    if baseline is not None:
        styles[baseline] = "base d0"
    others = [row for row in rows if row not in styles]
    for place, row in enumerate(others):
        styles[row] = f"c{place % COLOURS + 1} d{place // COLOURS % DASHES}"
    return styles


def draw_learning(groups: Sequence[Group], styles: Styles) -> list[Panel]:
    """Accuracy over training: the whole of it, and its last part enlarged."""
    shown = [group for group in groups if group.accuracy in group.curves]
    if not shown:
        return []
    split = "validation" if shown[0].accuracy.startswith("val") else "test"
    name = f"{split} accuracy (top-1), %"
    epochs = _count_epochs(shown)
    whole = _chart(f"{name}, over training", _epochs_scale(1, epochs), _learning_scale(shown), name)
    _draw_accuracies(whole, shown, styles)
    panels = [Panel("all of training", whole.render())]
    first = _first_of_last(epochs)
    if first == 1:
        return panels
    # A student alone is often so far below that the others would be one line.
    taught = [group for group in shown if group.is_taught] or shown
    title = f"the last {100 * LAST:.0f} %, enlarged"
    axes = _epochs_scale(first, epochs), _learning_scale(taught, first)
    late = _chart(f"{name}, {title}", *axes, name)
    _draw_accuracies(late, shown, styles)
    return [*panels, Panel(title, late.render())]


def draw_learning_panels(
    groups: Sequence[Group], styles: Styles, name: str
) -> tuple[Markup, list[Panel]]:
    """The last part of training: each taught row with its spread over seeds, all means in grey.

    Args:
        groups: of one column.
        styles: of the rows.
        name: of the background, unique on its page.

    Returns:
        The background, which has to stand on the page once, and the panels, which refer to it.
    """
    shown = [g for g in groups if g.is_taught and g.accuracy in g.curves]
    if not shown:
        return Markup(), []
    epochs = _count_epochs(shown)
    first = _first_of_last(epochs)
    axes = _epochs_scale(first, epochs), _learning_scale(shown, first)
    background = _panel("all rows", *axes, "accuracy, %")
    for group in shown:
        background.line(*_over_epochs(group.mean(group.accuracy)), "behind")
    panels = []
    for group in shown:
        chart = _panel(f"{group.row}: accuracy over training", *axes, "accuracy, %")
        chart.show(name)
        _draw_accuracy(chart, group, _solid(styles[group.row]), with_band=True)
        panels.append(Panel(group.row, chart.render(), styles[group.row]))
    return background.share(name), panels


def draw_differences(
    groups: Sequence[Group], baseline: Group | None, styles: Styles
) -> list[Panel]:
    """Accuracy of each row less that of the baseline after the same epoch, paired by seed."""
    if baseline is None:
        return []
    found = [(group, _difference(group, baseline)) for group in groups if group is not baseline]
    found = [(group, curve) for group, curve in found if group.is_taught and curve.size]
    if not found:
        return []
    means = [mean_over(curve) for _, curve in found]
    limit = _difference_limit(means)
    axes = _epochs_scale(1, max(map(len, means))), Scale(-limit, limit)
    panels = []
    for (group, curve), mean in zip(found, means, strict=True):
        chart = _panel(f"{group.row} less {baseline.row}", *axes, "difference, points")
        chart.level(0, "base", baseline.row)
        spread = spread_over(curve)
        x = np.arange(1, len(mean) + 1)
        css = _solid(styles[group.row])
        chart.band(x, mean - spread, mean + spread, css)
        chart.line(x, mean, css, group.row)
        panels.append(Panel(group.row, chart.render(), styles[group.row]))
    return panels


def draw_temperature_panels(groups: Sequence[Group], styles: Styles) -> list[Panel]:
    """Temperature of teacher and student of each row over training, all on the same axes."""
    shown = _with_temperature(groups)
    if not shown:
        return []
    axes = _epochs_scale(1, _count_epochs(shown)), _temperature_scale(shown)
    panels = []
    for group in shown:
        chart = _panel(f"{group.row}: temperatures over training", *axes, "temperature")
        known = [who for who in WHO if f"temperature/{who}_mean" in group.curves]
        drawn = {"both": "teacher"} if _are_same(group) else {who: who for who in known}
        for css, who in drawn.items():
            low, high = group.temperature_band(who)
            chart.band(*_over_epochs(low), high, css)
        for css, who in drawn.items():  # above both bands
            mean = group.mean(f"temperature/{who}_mean")
            chart.line(*_over_epochs(mean), css, f"{group.row}: {css}")
        panels.append(Panel(group.row, chart.render(), styles[group.row]))
    return panels


def draw_temperature_means(groups: Sequence[Group], styles: Styles) -> list[Panel]:
    """Mean temperature of the teacher of every row in one chart, and of the student in another."""
    shown = _with_temperature(groups)
    charts = []
    for who in WHO:
        name = f"temperature/{who}_mean"
        rows = [group for group in shown if name in group.curves]
        if not rows:
            continue
        axes = _epochs_scale(1, _count_epochs(shown)), _temperature_scale(shown)
        chart = _chart(f"mean {who} temperature of all rows", *axes, "mean temperature")
        for group in rows:
            chart.line(*_over_epochs(group.mean(name)), styles[group.row], group.row)
        charts.append(Panel(who, chart.render()))
    return charts


def write_figure(path: Path, svg: Markup) -> None:
    """Writes one figure as a file that any browser shows, in light and in dark.

    Raises:
        ResourceError: it cannot be written.
    """
    opening = Markup('<svg xmlns="http://www.w3.org/2000/svg"')
    style = Markup("><style>{}</style>").format(Markup(CHART_STYLE.read_text()))
    head, rest = svg.split(">", 1)
    drawing = opening + Markup(head.removeprefix("<svg")) + style + Markup(rest)
    write_atomic(path, drawing.encode())


def _chart(label: str, x: Scale, y: Scale, y_name: str) -> Chart:
    return Chart(label, x, y, x_name="epoch", y_name=y_name, size=_WIDE)


def _panel(label: str, x: Scale, y: Scale, y_name: str) -> Chart:
    return Chart(label, x, y, x_name="epoch", y_name=y_name, size=_PANEL, ticks=(4, 5))


def _draw_accuracies(chart: Chart, groups: Sequence[Group], styles: Styles) -> None:
    for group in sorted(groups, key=lambda group: styles[group.row].startswith("base")):
        _draw_accuracy(chart, group, styles[group.row], with_band=len(groups) <= MAX_BANDS)


def _draw_accuracy(chart: Chart, group: Group, css: str, with_band: bool) -> None:
    mean = group.mean(group.accuracy)
    x, _ = _over_epochs(mean)
    if with_band:
        spread = spread_over(group.curves[group.accuracy])
        chart.band(x, mean - spread, mean + spread, css)
    chart.line(x, mean, css, group.row)


def _difference(group: Group, baseline: Group) -> np.ndarray:
    """[seeds that both have, epochs that both have]."""
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
    """Shows the second half of all rows, and nearly all of the first.

    The first epochs of one row must not press the others flat.
    """
    known = [np.abs(mean[np.isfinite(mean)]) for mean in means]
    late = [size for mean in known for size in mean[len(mean) // 2 :].tolist()]
    early = np.quantile(np.concatenate(known), 0.95) if late else 1.0
    return 1.1 * max(float(early), *late, 0.1)


def _with_temperature(groups: Sequence[Group]) -> list[Group]:
    return [g for g in groups if any(f"temperature/{who}_mean" in g.curves for who in WHO)]


def _count_epochs(groups: Sequence[Group]) -> int:
    return max(curves.shape[1] for group in groups for curves in group.curves.values())


def _temperature_scale(groups: Sequence[Group]) -> Scale:
    """Shows every mean, and of bands at most as much again: a few samples may go anywhere."""
    means, ends = [], []
    for group in groups:
        for who in WHO:
            if f"temperature/{who}_mean" in group.curves:
                means += group.mean(f"temperature/{who}_mean").tolist()
                ends += [value for end in group.temperature_band(who) for value in end.tolist()]
    scale = fit_scale(means, log=True)
    return fit_scale([*means, *(v for v in ends if scale.low / 2 <= v <= scale.high * 2)], log=True)


def _learning_scale(groups: Sequence[Group], first: int = 1) -> Scale:
    found = []
    for group in groups:
        mean = group.mean(group.accuracy)[first - 1 :]
        spread = np.nan_to_num(spread_over(group.curves[group.accuracy])[first - 1 :])
        found += [*(mean - spread).tolist(), *(mean + spread).tolist()]
    return fit_scale(found)


def _epochs_scale(first: int, last: int) -> Scale:
    if first == last:  # one epoch stands in the middle
        return Scale(first - 0.5, last + 0.5, whole=True)
    return Scale(first, last, whole=True)


def _over_epochs(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, len(curve) + 1), curve


def _first_of_last(epochs: int) -> int:
    """The epoch at which the last part begins; 1 where that would be too short to look at."""
    first = 1 + int(epochs * (1 - LAST))
    return first if epochs - first >= 3 else 1


def _solid(css: str) -> str:
    """A row's colour without its dashes: where it stands alone they say nothing."""
    return css.split()[0]


def _are_same(group: Group) -> bool:
    """Whether teacher and student have one temperature: one line would hide the other."""
    teacher, student = (group.curves.get(f"temperature/{who}_mean") for who in WHO)
    if teacher is None or student is None:
        return False
    return np.allclose(teacher, student, rtol=1e-6, equal_nan=True)
