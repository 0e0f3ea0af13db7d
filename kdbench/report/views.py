"""Further tables of a report: convergence, agreement with the teacher, cost.

Each view has a row for each row of the comparison; its cells contain formatted numbers and a strip
with one dot per seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from markupsafe import Markup

from kdbench.drawing.svg import draw_strip, draw_strip_axis, fit_scale
from kdbench.errors import DataError
from kdbench.records.collect import RunFolder
from kdbench.records.convergence import LEVELS
from kdbench.records.metric import Metric, find_metric, of_page
from kdbench.records.record import TIMINGS, RunRecord
from kdbench.report.curves import CellRuns, mean_over, read_columns
from kdbench.report.figures import Styles
from kdbench.report.statistics import MIN_SEEDS, Comparison, compare_all
from kdbench.words import list_some, plural, signed, span

SPEED = "convergence.aulc"
TEACHER_SHARE = "perf/teacher_share"
_MAX_LEVELS, _MAX_NAMED = 4, 5
NONE = Markup()

Values = Mapping[str, Mapping[int, float]]  # row -> seed -> value


@dataclass(frozen=True)
class Head:
    """The header of a column.

    Attributes:
        title: with the unit.
        better: which direction is better; may be empty.
        axis: of the strips below; empty without strips.
    """

    title: str
    better: str = ""
    axis: Markup = NONE


@dataclass(frozen=True)
class Entry:
    """A cell: a formatted number, a strip with one dot per seed, and a note."""

    text: str
    strip: Markup = NONE
    note: str = ""


@dataclass(frozen=True)
class FactTable:
    """A table.

    Attributes:
        heads: of its columns.
        rows: (label, CSS classes of its line, one entry per column).
    """

    heads: Sequence[Head]
    rows: Sequence[tuple[str, str, Sequence[Entry]]]


Column = tuple[Head, Mapping[str, Entry]]  # row -> entry
_NOTHING = Entry("\N{EN DASH}")


def view_distillation(groups: Sequence[CellRuns], styles: Styles) -> FactTable:
    """Agreement of the student with its teacher, and calibration."""
    columns = [_draw_metric(groups, styles, metric) for metric in of_page("distillation")]
    return _arrange(groups, styles, columns)


def view_cost(groups: Sequence[CellRuns], styles: Styles) -> FactTable:
    """Time and memory of the runs."""
    shares = {group.row: _teacher_shares(group) for group in groups}
    share = _draw(
        "share of the teacher, % of training alone", "", shares, styles, lambda v: f"{v:.1f}"
    )
    columns = [_draw_metric(groups, styles, metric) for metric in of_page("cost")]
    return _arrange(groups, styles, [*columns, share, _trained_together(groups)])


def view_convergence(groups: Sequence[CellRuns], baseline: str | None, styles: Styles) -> FactTable:
    """Convergence: mean accuracy over the epochs, and epochs to accuracy levels."""
    columns = [_draw_metric(groups, styles, find_metric(SPEED))]
    if baseline is not None:
        compared = compare_all(collect_values(groups, SPEED), baseline, larger_is_better=True)
        entries = {row: Entry(write_difference(c), note=c.statement) for row, c in compared.items()}
        head = Head(f"against {baseline}, points", "simultaneous 95 % interval")
        columns.append((head, {baseline: Entry("baseline"), **entries}))
    columns += [_epochs_to(groups, level) for level in choose_levels(groups)]
    return _arrange(groups, styles, columns)


def judge_speed(groups: Sequence[CellRuns], baseline: str | None) -> list[str]:
    """Sentences on whether any row learns faster than the baseline."""
    distilled = [group for group in groups if group.has_teacher]
    values = collect_values(groups, SPEED)
    rows = [group.row for group in distilled if group.row in values]
    if baseline not in rows:
        return ["There is no baseline to compare with."]
    if len(rows) < 2:
        return [f"There is no row to compare with {baseline}."]
    every = compare_all(values, baseline, larger_is_better=True)  # as in the table
    compared = {row: comparison for row, comparison in every.items() if row in rows}
    return [*_speed_by_area(compared, baseline), *_speed_by_level(distilled, baseline)]


def choose_levels(groups: Sequence[CellRuns]) -> list[int]:
    """The highest accuracy levels, in percent, that at least half of the runs reached."""
    reached = [_reached(run) for group in groups for run in group.runs.values()]
    common = [
        level for level in LEVELS if 2 * sum(str(level) in r for r in reached) >= len(reached)
    ]
    return common[-_MAX_LEVELS:] if reached else []


def collect_values(groups: Sequence[CellRuns], name: str) -> dict[str, dict[int, float]]:
    """Row -> seed -> a metric of the record; rows without values are left out."""
    metric = find_metric(name)
    found = {
        group.row: {
            seed: value
            for seed, run in group.runs.items()
            if (value := metric.value(run.record)) is not None
        }
        for group in groups
    }
    return {row: values for row, values in found.items() if values}


def write_difference(comparison: Comparison, digits: int = 2) -> str:
    """A difference with its interval: "+0.31 (+0.10 to +0.52)"."""
    if comparison.difference is None:
        return "\N{EN DASH}"
    text = signed(comparison.difference, digits)
    if comparison.interval is None:
        return text
    low, high = (signed(end, digits) for end in comparison.interval)
    return f"{text} ({low} to {high})"


def write_spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Mean and standard deviation over seeds."""
    spread = f" ± {write(stdev(values))}" if len(values) > 1 else ""
    return f"{write(fmean(values))}{spread}"


def draw_values(
    values: Values, styles: Styles, write: Callable[[float], str]
) -> tuple[Markup, dict[str, Entry]]:
    """A column of strips: its axis, and an entry per row."""
    scale = fit_scale([value for by_seed in values.values() for value in by_seed.values()])
    entries = {}
    for row, by_seed in values.items():
        found = list(by_seed.values())
        label = f"{row}, each seed: {', '.join(map(write, found))}"
        strip = draw_strip(found, scale, styles[row], label)
        entries[row] = Entry(write_spread(found, write), strip)
    return draw_strip_axis(scale), entries


def describe_hardware(records: Sequence[RunRecord]) -> str:
    """The machines of the runs, because costs on different machines are not comparable."""
    places = {f"{r.device}, {plural(r.threads, 'thread')}, {r.precision}" for r in records}
    sizes = {r.cohort_size for r in records}
    together = span(min(sizes), max(sizes))
    return f"Trained on {'; '.join(sorted(places))}; {together} per cohort."


def _draw_metric(groups: Sequence[CellRuns], styles: Styles, metric: Metric) -> Column:
    values = collect_values(groups, metric.name)
    return _draw(metric.title, metric.better, values, styles, metric.write)


def _draw(
    title: str, better: str, values: Values, styles: Styles, write: Callable[[float], str]
) -> Column:
    known = {row: by_seed for row, by_seed in values.items() if by_seed}
    if not known:
        return Head(title, better), {}
    axis, entries = draw_values(known, styles, write)
    return Head(title, better, axis), entries


def _arrange(groups: Sequence[CellRuns], styles: Styles, columns: Sequence[Column]) -> FactTable:
    kept = [column for column in columns if column[1]]
    rows = [
        (group.row, styles[group.row], [entries.get(group.row, _NOTHING) for _, entries in kept])
        for group in groups
    ]
    return FactTable([head for head, _ in kept], rows)


def _epochs_to(groups: Sequence[CellRuns], level: int) -> Column:
    entries = {}
    for group in groups:
        epochs = _epochs(group, level)
        missing = len(group.runs) - len(epochs)
        note = f"{len(epochs)} of {plural(len(group.runs), 'run')}" if missing else ""
        text = write_spread(epochs, lambda v: f"{v:.1f}") if epochs else "not reached"
        entries[group.row] = Entry(text, note=note)
    return Head(f"epochs to {level}\N{NO-BREAK SPACE}%", "fewer is faster"), entries


def _epochs(group: CellRuns, level: int) -> list[int]:
    reached = [_reached(run) for run in group.runs.values()]
    return [epochs[str(level)] for epochs in reached if str(level) in epochs]


def _reached(run: RunFolder) -> Mapping[str, int]:
    """Level, percent -> epochs until it was first reached."""
    found: Mapping[str, int] = run.record.convergence.get("epochs_to", {})
    return found


def _trained_together(groups: Sequence[CellRuns]) -> Column:
    """Cohort sizes, if they differ: wall time and memory depend on them."""
    sizes = {g.row: sorted({r.record.cohort_size for r in g.runs.values()}) for g in groups}
    differ = len({size for found in sizes.values() for size in found}) > 1
    entries = {row: Entry(span(found[0], found[-1])) for row, found in sizes.items() if differ}
    return Head("cohort size, runs"), entries


def _speed_by_area(compared: Mapping[str, Comparison], baseline: str) -> list[str]:
    rows: dict[str, dict[str, Comparison]] = {}
    for row, comparison in compared.items():
        known = comparison.verdict in ("better", "worse", "not distinguishable")
        rows.setdefault(comparison.verdict if known else "unknown", {})[row] = comparison
    sentences = []
    for verdict, word in (("better", "Faster"), ("worse", "Slower")):
        if verdict in rows:
            sentences.append(
                f"{word} than {baseline}, by points of mean accuracy: "
                f"{_list_differences(rows[verdict])}."
            )
    if "not distinguishable" in rows:
        same = plural(len(rows["not distinguishable"]), "row")
        sentences.append(f"Not distinguishable from {baseline} in speed: {same}.")
    if "unknown" in rows:
        most = max(comparison.n for comparison in rows["unknown"].values())
        sentences.append(
            f"Too few seeds to compare the speed with {baseline} "
            f"({plural(len(rows['unknown']), 'row')} with at most {plural(most, 'shared seed')}; "
            f"at least {MIN_SEEDS} needed). {_largest_difference(compared)}"
        )
    return sentences


def _list_differences(rows: Mapping[str, Comparison]) -> str:
    """The largest differences first; the table has their intervals."""
    points = {row: comparison.difference or 0.0 for row, comparison in rows.items()}
    ordered = sorted(points, key=lambda row: -abs(points[row]))
    return list_some([f"{row} {signed(points[row], 2)}" for row in ordered], _MAX_NAMED, "; ")


def _largest_difference(compared: Mapping[str, Comparison]) -> str:
    known = {row: c for row, c in compared.items() if c.difference is not None}
    if not known:
        return "There are no shared seeds."
    row = max(known, key=lambda row: known[row].difference or 0.0)
    return f"The largest mean difference: {row} {write_difference(known[row])} points."


def _speed_by_level(groups: Sequence[CellRuns], baseline: str) -> list[str]:
    """Compares the epochs to the highest level that all runs reached."""
    everywhere = [
        level
        for level in choose_levels(groups)
        if all(len(_epochs(group, level)) == len(group.runs) for group in groups)
    ]
    if not everywhere:
        return []
    level = everywhere[-1]
    means = {group.row: fmean(_epochs(group, level)) for group in groups}
    first = min(means, key=lambda row: means[row])
    if first == baseline:
        return [f"No row reaches {level} % in fewer epochs than {baseline} ({means[first]:.1f})."]
    return [
        f"{baseline} reaches {level} % in {means[baseline]:.1f} epochs on average, the fastest row "
        f"in {means[first]:.1f} ({first}); test it with --metric epochs_to.{level}."
    ]


def _teacher_shares(group: CellRuns) -> dict[int, float]:
    """Seed -> the teacher's share of the time of a run alone, percent."""
    found = {}
    for seed, run in group.runs.items():
        try:
            shares = read_columns(run.folder / TIMINGS, [TEACHER_SHARE]).get(TEACHER_SHARE)
        except DataError:
            continue  # the record has the total time; this file is optional
        if shares is not None and np.isfinite(shares).any():
            found[seed] = 100 * float(mean_over(shares))
    return found
