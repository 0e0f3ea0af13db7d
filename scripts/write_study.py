"""Keeps a finished sweep in a small form: its numbers as CSV, its table and two figures.

    python scripts/write_study.py OUTPUTS docs/studies/NAME

writes runs.csv (a line for each run), epochs.csv (a line for each epoch of each run), table.md,
accuracy.svg and temperature.svg. Everything comes from records and metrics of the runs; nothing
of the machine but what the records say goes into the files.
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from kdbench.files import write_atomic
from kdbench.results.collect import RunFolder, collect
from kdbench.results.curves import Group, group_runs
from kdbench.results.figures import write_figure
from kdbench.results.render import write_markdown
from kdbench.results.svg import Scale, fit_scale
from kdbench.results.table import Options, build_table, select

FIELDS = (
    *("dataset", "teacher", "student", "method", "temperature", "seed", "epochs", "precision"),
    *("threads", "cohort_size", "teacher_top1", "top1_last", "top1_best", "seconds"),
    *("run_key", "weights_digest"),
)
TEST = ("nll", "ece", "agreement", "teacher_kl", "logit_correlation")
ROW, NAME, WIDTH, MARGIN = 20, 110, 380, 14  # of a figure, in units of its viewBox


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
    write_figure(args.folder / "accuracy.svg", draw_dots(accuracies, "top-1 of the last epoch, %"))
    write_figure(args.folder / "temperature.svg", draw_ranges(groups))
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
    """Seven digits; the rest is in no figure."""
    return value if isinstance(value, str) else f"{value:.7g}"


def write_rows(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *rows])
    return text.getvalue()


def draw_dots(values: Mapping[str, Sequence[float]], title: str) -> Markup:
    """A line for each row: a dot for each seed, and a bar at their mean."""
    scale = fit_scale([value for each in values.values() for value in each])
    drawn = []
    for number, (row, each) in enumerate(values.items()):
        y = height_of(number)
        drawn += [label(row, y)]
        drawn += [
            Markup(
                '<circle class="both" fill="var(--c)" opacity=".55" cx="{}" cy="{}" r="3"/>'
            ).format(f"{x_of(value, scale):.1f}", y)
            for value in each
        ]
        drawn.append(bar(x_of(fmean(each), scale), y, "both"))
    return frame(drawn, len(values), scale, title)


def draw_ranges(groups: Sequence[Group]) -> Markup:
    """Temperatures of the last epoch: mean, and 5 to 95 % of the samples, means over seeds."""
    shown = [group for group in groups if "temperature/student_mean" in group.curves]
    ends = {
        (group.row, who): (
            *(float(band[-1]) for band in group.temperature_band(who)),
            float(group.mean(f"temperature/{who}_mean")[-1]),
        )
        for group in shown
        for who in ("teacher", "student")
    }
    scale = fit_scale([value for each in ends.values() for value in each], log=True)
    drawn = []
    for number, group in enumerate(shown):
        drawn.append(label(group.row, height_of(number)))
        for who, shift in (("teacher", -4), ("student", 4)):
            low, high, mean = ends[group.row, who]
            y = height_of(number) + shift
            drawn.append(
                Markup('<line class="line {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    who, f"{x_of(low, scale):.1f}", f"{x_of(high, scale):.1f}", y, y
                )
            )
            drawn.append(bar(x_of(mean, scale), y, who))
    title = "temperature in the last epoch: teacher (solid), student (dashed)"
    return frame(drawn, len(shown), scale, title)


def height_of(number: int) -> int:
    return MARGIN + 14 + ROW * number + ROW // 2


def x_of(value: float, scale: Scale) -> float:
    return NAME + WIDTH * float(scale.place([value])[0])


def label(row: str, y: float) -> Markup:
    text = Markup('<text class="name end" x="{}" y="{}">{}</text>')
    return text.format(NAME - 10, y + 4, row)


def bar(x: float, y: float, css: str) -> Markup:
    line = Markup('<line class="line {}" x1="{}" x2="{}" y1="{}" y2="{}" stroke-width="2.4"/>')
    return line.format(css, f"{x:.1f}", f"{x:.1f}", y - 4, y + 4)


def frame(drawn: Sequence[Markup], rows: int, scale: Scale, title: str) -> Markup:
    bottom = MARGIN + 14 + ROW * rows
    size = f"0 0 {NAME + WIDTH + MARGIN} {bottom + 24}"
    head = Markup('<svg class="chart" viewBox="{}" role="img" aria-label="{}">').format(size, title)
    parts = [Markup('<text x="{}" y="14">{}</text>').format(NAME, title)]
    for tick in scale.ticks(8):
        x = f"{x_of(tick, scale):.1f}"
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(line.format(x, x, MARGIN + 10, bottom))
        number = Markup('<text class="middle" x="{}" y="{}">{}</text>')
        parts.append(number.format(x, bottom + 16, f"{tick:g}"))
    return head + Markup("").join([*parts, *drawn]) + Markup("</svg>")


if __name__ == "__main__":
    main()
