"""Exports a finished sweep: its numbers as CSV, its table and two figures.

    python scripts/write_study.py OUTPUTS docs/studies/NAME

writes runs.csv (one row per run), epochs.csv (one row per epoch of each run), table.md,
accuracy.svg and temperature.svg, all from the records and metrics of the runs.
"""

import argparse
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdbench.drawing.canvas import Drawing, Panel, clean, colour, save, style
from kdbench.files import write_atomic
from kdbench.records.collect import RunFolder, collect
from kdbench.records.metric import of_page
from kdbench.report.cells import Options
from kdbench.report.curves import WHO, CellRuns, group_runs
from kdbench.report.render import write_markdown
from kdbench.report.table import build_table, select

FIELDS = (
    *("dataset", "teacher", "student", "method", "temperature", "seed", "epochs", "precision"),
    *("threads", "cohort_size", "teacher_top1", "top1_last", "top1_best", "seconds"),
    *("own_seconds", "shared_seconds"),
    *("run_key", "weights_digest"),
)
TEST = [metric.name.removeprefix("test.") for metric in of_page("distillation")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    found = collect(args.outputs)
    options = Options(sort="mean")
    runs = [run for run in select(found.runs, options) if run.record.status == "done"]
    table = build_table(runs, [], options)
    groups, _ = group_runs(runs, table)
    files = {"runs.csv": list_runs(runs), "epochs.csv": list_epochs(runs)}
    files["table.md"] = write_markdown(table)
    for name, text in files.items():
        write_atomic(args.folder / name, text.encode())
    accuracies = {
        group.row: [run.record.top1_last or 0.0 for run in group.runs.values()] for group in groups
    }
    ends = {
        group.row: last_temperatures(group)
        for group in groups
        if "temperature/student_mean" in group.curves
    }
    for drawing in (draw_dots(accuracies), draw_ranges(ends)):
        save(drawing, args.folder, formats=("svg",))
    print(f"{len(runs)} runs: {', '.join(files)}, accuracy.svg, temperature.svg in {args.folder}")


def list_runs(runs: Sequence[RunFolder]) -> str:
    rows = [
        [getattr(run.record, name) for name in FIELDS] + [run.record.test.get(n) for n in TEST]
        for run in sorted(runs, key=lambda run: (run.record.temperature, run.record.seed))
    ]
    return write_rows([*FIELDS, *TEST], rows)


def list_epochs(runs: Sequence[RunFolder]) -> str:
    rows = []
    for run in sorted(runs, key=lambda run: (run.record.temperature, run.record.seed)):
        who = {"temperature": run.record.temperature, "seed": run.record.seed}
        rows += [who | epoch for epoch in run.metrics]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return write_rows(names, [[shorten(row.get(name, "")) for name in names] for row in rows])


def shorten(value: str | float) -> str:
    """Seven significant digits, enough for any figure."""
    return value if isinstance(value, str) else f"{value:.7g}"


def write_rows(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def draw_dots(values: Mapping[str, Sequence[float]]) -> Drawing:
    """One line per row: a dot per seed, and a bar at their mean."""

    def draw(axes: Axes) -> None:
        for place, each in enumerate(values.values()):
            axes.plot(
                each, [place] * len(each), "o", color=colour("both"), alpha=0.55, markersize=4
            )
            axes.plot([fmean(each)] * 2, [place - 0.25, place + 0.25], color=colour("both"))
        name_rows(axes, list(values))

    return arrange("accuracy", "top-1 of the last epoch, %", list(values), draw)


def last_temperatures(group: CellRuns) -> dict[str, tuple[float, float, float]]:
    """Teacher and student -> 5 %, 95 % and mean of the samples of the last epoch, over seeds."""
    return {
        who: (
            *(float(band[-1]) for band in group.temperature_band(who)),
            float(group.mean(f"temperature/{who}_mean")[-1]),
        )
        for who in WHO
    }


def draw_ranges(ends: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Drawing:
    """Temperatures of the last epoch: mean, and 5 to 95 % of the samples, means over seeds.

    Args:
        ends: row -> teacher and student -> 5 %, 95 %, mean.
    """

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        for place, found in enumerate(ends.values()):
            for who, shift in zip(WHO, (-0.18, 0.18), strict=True):
                low, high, mean = found[who]
                y = place + shift
                axes.plot([low, high], [y, y], **style(who))
                axes.plot([mean, mean], [y - 0.2, y + 0.2], color=colour(who), linewidth=2.2)
        name_rows(axes, list(ends))

    title = "temperature in the last epoch: mean, 5 % to 95 % of the samples"
    return arrange("temperature", title, list(ends), draw, [(who, who) for who in WHO])


def name_rows(axes: Axes, rows: Sequence[str]) -> None:
    """Puts the names of the rows, from top to bottom, beside the axes."""
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.grid(axis="x")
    for place, row in enumerate(rows):
        axes.annotate(
            clean(row), (1.02, place), xycoords=("axes fraction", "data"), va="center",
            annotation_clip=False,
        )  # fmt: skip


def arrange(
    name: str,
    title: str,
    rows: Sequence[str],
    draw: Callable[[Axes], None],
    legend: Sequence[tuple[str, str]] = (),
) -> Drawing:
    margin = 0.3 + 0.075 * max(map(len, rows))
    size = (5.5 + margin, 0.7 + 0.22 * len(rows))
    return Drawing(name, [Panel(title, title, draw)], 1, size, legend, margin)


if __name__ == "__main__":
    main()
