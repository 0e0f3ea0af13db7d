"""Draws the README's picture, from the survey in docs/studies/temperature_survey, and its badges.

    python scripts/draw_readme.py

writes docs/images/curves-light.svg and curves-dark.svg, with some strategies of each kind. Left:
the teacher's temperature; for schedules their rule, for all others the mean of each epoch, with
the range of 5 % to 95 % of the samples where each has its own. Right: test accuracy after each
epoch, mean over seeds. The badges say what pyproject.toml says.
"""

import csv
import io
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "docs/studies/temperature_survey/epochs.csv"
FOLDER = ROOT / "docs/images"
EPOCHS = 2
# What decides the temperature -> the strategies that are shown.
KINDS = {
    "schedule": ("constant", "cosine", "step"),
    "learned": ("ctkd", "rlkd", "meta"),
    "from the logits": ("normkd", "atkd"),
    "control": ("random", "scratch"),
}
PER_SAMPLE = ("normkd", "atkd", "rlkd", "random")
# Colours that people with a color vision deficiency tell apart (Okabe and Ito), on both grounds.
THEMES = {
    "light": {
        **{"ink": "#1b1f24", "mute": "#57606a", "rule": "#d0d7de", "schedule": "#0072b2"},
        **{"learned": "#00805e", "control": "#57606a", "from the logits": "#c8500a"},
    },
    "dark": {
        **{"ink": "#e6edf3", "mute": "#9198a1", "rule": "#3d444d", "schedule": "#58b4f0"},
        **{"learned": "#3ecfa5", "control": "#9198a1", "from the logits": "#ff9152"},
    },
}
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdbench",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.solid_capstyle": "round",
}

Study = Mapping[str, Mapping[str, Sequence[float]]]


def main() -> None:
    study = read_study()
    for theme in THEMES:
        path = FOLDER / f"curves-{theme}.svg"
        path.write_text(draw(study, theme))
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    for name, value in read_badges().items():
        (FOLDER / f"{name.lower()}.svg").write_text(draw_badge(name, value))


def read_study(path: Path = STUDY) -> Study:
    """Strategy -> column -> mean over seeds, epoch by epoch."""
    values: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    with path.open() as file:
        for row in csv.DictReader(file):
            name = "scratch" if row["temperature"] == "none" else row["temperature"]
            for column, value in row.items():
                if column.startswith(("temperature/", "test/")) and value:
                    values[name][column][int(row["epoch"])].append(float(value))
    return {
        name: {
            column: [fmean(v) for _, v in sorted(epochs.items())]
            for column, epochs in values[name].items()
        }
        for names in KINDS.values()
        for name in names
    }


def read_badges() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(text for text in project["dependencies"] if text.startswith("torch>"))
    least = re.search(r">=([\d.]+)", torch)
    return {
        "Python": project["requires-python"].removeprefix(">=") + "+",
        "PyTorch": f"{least[1]}+" if least else torch,
        "License": project["license"],
    }


def draw_badge(name: str, value: str) -> str:
    """A label and its value, in the colors that badges have."""
    left, right = 12 + 6.6 * len(name), 12 + 6.8 * len(value)
    width = left + right
    font = 'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" fill="#fff"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="20" role="img">'
        f"<title>{name}: {value}</title>"
        f'<rect width="{width:.0f}" height="20" rx="3" fill="#4c566a"/>'
        f'<path d="M{left:.0f},0h{right - 3:.0f}q3,0 3,3v14q0,3 -3,3h-{right - 3:.0f}z" '
        f'fill="#0072b2"/>'
        f'<g text-anchor="middle" {font}><text x="{left / 2:.1f}" y="14">{name}</text>'
        f'<text x="{left + right / 2:.1f}" y="14">{value}</text></g></svg>\n'
    )


def kind_of(name: str) -> str:
    return next(kind for kind, names in KINDS.items() if name in names)


def draw(study: Study, theme: str) -> str:
    """Both panels in the colors of a theme, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9))
        left = figure.add_axes((0.05, 0.18, 0.345, 0.72))
        right = figure.add_axes((0.55, 0.18, 0.345, 0.72))
        draw_temperatures(left, study, THEMES[theme])
        draw_accuracies(right, study, THEMES[theme])
        for axes in (left, right):
            finish(axes, THEMES[theme])
        draw_legend(figure, THEMES[theme])
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    # Hundredths of a point are enough.
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", file.getvalue())


def draw_temperatures(axes: Axes, study: Study, colors: Mapping[str, str]) -> None:
    axes.set_title("temperature of the teacher", loc="left", color=colors["ink"], fontsize=9.5)
    axes.set_yscale("log")
    axes.set_ylim(0.9, 28)
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(0, EPOCHS)
    ends = {}
    for name, columns in study.items():
        means = columns.get("temperature/teacher_mean")
        if means is None:
            continue
        color = colors[kind_of(name)]
        if kind_of(name) == "schedule":
            x = np.linspace(0, EPOCHS, 161)
            y = np.array([schedule(name, place / EPOCHS) for place in x])
            axes.plot(x, y, color=color, linewidth=1.6)
            ends[name] = float(y[-1])
            continue
        edges = np.arange(len(means) + 1)
        if name in PER_SAMPLE:
            low, high = columns["temperature/teacher_p5"], columns["temperature/teacher_p95"]
            axes.stairs(high, edges, baseline=low, fill=True, color=color, alpha=0.12)
        axes.stairs(means, edges, color=color, linewidth=1.6, baseline=None)
        ends[name] = means[-1]
    label(axes, ends, colors, EPOCHS)


def schedule(name: str, fraction: float) -> float:
    """The temperature of a schedule in its default setting."""
    from kdbench import Progress

    return load_schedule(name).tau_at(Progress(round(fraction * 1000), 1000, 0, 1))


@cache
def load_schedule(name: str) -> Any:
    from kdbench import load_objective

    return load_objective("kd", f"temperature={name}").temperature


def draw_accuracies(axes: Axes, study: Study, colors: Mapping[str, str]) -> None:
    axes.set_title(
        "test accuracy after each epoch, %", loc="left", color=colors["ink"], fontsize=9.5
    )
    axes.set_xlim(0.96, EPOCHS)
    axes.set_ylim(13, 36)
    ends = {}
    for name, columns in study.items():
        y = columns["test/top1"]
        dashes = "--" if name == "scratch" else "-"
        axes.plot(
            range(1, len(y) + 1), y, color=colors[kind_of(name)], linewidth=1.6, marker="o",
            markersize=3, linestyle=dashes,
        )  # fmt: skip
        ends[name] = y[-1]
    label(axes, ends, colors, EPOCHS)


def label(axes: Axes, ends: Mapping[str, float], colors: Mapping[str, str], edge: float) -> None:
    """Names at the right end of the lines, moved apart where they would overlap."""
    names = sorted(ends, key=lambda name: ends[name])
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform((edge, ends[name]))[1]) for name in names]
    for name, target, place in zip(names, wanted, spread(wanted, 0.06), strict=True):
        color = colors[kind_of(name)]
        axes.plot(
            [1.005, 1.04], [target, place], transform=axes.transAxes, color=color,
            linewidth=0.6, alpha=0.6, clip_on=False,
        )  # fmt: skip
        axes.text(1.05, place, name, transform=axes.transAxes, va="center", color=color)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The sorted places nearest to those wanted that are at least a gap apart."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and top(groups[-2], gap) + gap > bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    return [bottom(group, gap) + i * gap for group in groups for i in range(len(group))]


def bottom(group: Sequence[float], gap: float) -> float:
    return fmean(group) - gap * (len(group) - 1) / 2


def top(group: Sequence[float], gap: float) -> float:
    return bottom(group, gap) + gap * (len(group) - 1)


def finish(axes: Axes, colors: Mapping[str, str]) -> None:
    axes.set_facecolor("none")
    axes.set_xlabel("epoch", loc="right", color=colors["mute"], labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(EPOCHS, integer=True))
    axes.tick_params(colors=colors["rule"], labelcolor=colors["mute"], length=3)
    axes.grid(axis="y", color=colors["rule"], linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(colors["rule"])


def draw_legend(figure: Figure, colors: Mapping[str, str]) -> None:
    x = 0.05
    for kind in KINDS:
        figure.text(x, 0.025, "\N{BLACK CIRCLE} " + kind, color=colors[kind], fontsize=9)
        x += 0.045 + 0.0085 * len(kind)


if __name__ == "__main__":
    main()
