"""Builds a table from runs: mean and spread over seeds, published numbers, comparisons."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kdbench.errors import ConfigError
from kdbench.records.collect import RunFolder, finished_at
from kdbench.records.metric import Metric, find_metric
from kdbench.records.record import RunRecord
from kdbench.records.select import require_known
from kdbench.report.cells import Cell, Options, Table
from kdbench.report.layout import (
    CellKey,
    RecordsByCell,
    axis_label,
    base_label,
    lay_out,
    natural_key,
)
from kdbench.report.notes import (
    describe_cells,
    describe_missing,
    describe_mixes,
    describe_selection,
)
from kdbench.report.published import Choice, find_number, find_teacher
from kdbench.report.statistics import compare_all, find_winner
from kdbench.words import plural

SORTS = ("name", "mean")
# Fields that appear in the title if all runs agree in them, with their format.
_COMMON: dict[str, Callable[[Any], str]] = {
    "dataset": str,
    "epochs": lambda epochs: plural(epochs, "epoch"),
    "protocol": "protocol {}".format,
}


def select(runs: Sequence[RunFolder], options: Options) -> list[RunFolder]:
    """The runs that a table shows.

    Raises:
        ConfigError: a condition refers to a field that no run has.
    """
    require_known(options.filters, [run.record for run in runs])
    students = [run for run in runs if not run.record.is_of_teacher]
    return [run for run in _share_alone(students) if _is_chosen(run.record, options)]


def _share_alone(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Adds a copy of each run without a teacher for every other pair with the same student.

    Such a run does not depend on the teacher of its pair, so pairs share it.
    """
    pairs: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        pairs.setdefault((run.record.dataset, run.record.student), set()).add(run.record.pair)
    there = {(run.record.run_key, run.record.pair) for run in runs}
    return [*runs] + [
        replace(run, record=replace(run.record, pair=pair))
        for run in runs
        if run.record.teacher is None
        for pair in sorted(pairs[run.record.dataset, run.record.student])
        if (run.record.run_key, pair) not in there
    ]


def build_table(runs: Sequence[RunFolder], unfinished: Sequence[Path], options: Options) -> Table:
    """Builds a table.

    Args:
        runs: candidates, filtered by ``options``.
        unfinished: folders without a record, counted in a note.
        options: see ``Options``.

    Raises:
        ConfigError: an option is invalid.
    """
    metric = find_metric(options.metric)
    records = [run.record for run in select(runs, options)]
    done = [record for record in records if record.status == "done"]
    grouped = lay_out(records, options.rows, options.columns)
    planned = options.planned or {}
    begun = {_base(key) for key in grouped}
    grouped |= {key: [] for key in planned if key not in begun}
    cells = {
        key: _cell(found, metric, planned.get(_base(key)), _published(found, metric))
        for key, found in grouped.items()
    }
    baseline = _find_baseline(cells, options.wanted)
    rows = _order(cells, metric, options, baseline)
    cells = _judge(cells, baseline, metric)
    return Table(
        title=_title(done or records, options.name),
        metric=metric,
        axes=(options.rows, options.columns),
        rows=rows,
        columns=sorted({column for _, column in cells}, key=natural_key),
        networks=_networks(grouped),
        cells=cells,
        baseline=baseline,
        teacher=_teachers(grouped) if metric.is_accuracy else {},
        teacher_published=_published_teachers(grouped) if metric.is_accuracy else {},
        notes=[
            *describe_selection(options.filters, options.protocol),
            *describe_mixes(done),
            *describe_cells(grouped, cells),
            *describe_missing(rows, options.wanted, baseline, unfinished),
        ],
    )


def _base(key: CellKey) -> CellKey:
    row, column = key
    return base_label(row), base_label(column)


def _is_chosen(record: RunRecord, options: Options) -> bool:
    if options.planned is not None:
        rows, columns = options.rows, options.columns
        place = axis_label(record, rows, columns), axis_label(record, columns, rows)
        if record.seed not in options.planned.get(place, ()):
            return False
    return options.protocol in (None, record.protocol) and all(
        condition.holds(record) for condition in options.filters
    )


def _cell(
    records: Sequence[RunRecord],
    metric: Metric,
    planned: set[int] | None,
    published: Choice | None,
) -> Cell:
    done = _by_seed(records)
    found = {seed: metric.value(record) for seed, record in done.items()}
    values = {seed: value for seed, value in found.items() if value is not None}
    mean = fmean(values.values()) if values else None
    best, last = _mean_of(done.values(), "top1_best"), _mean_of(done.values(), "top1_last")
    matching = ("best" if published.selection == "best" else "last") if published else None
    own = best if matching == "best" else last
    return Cell(
        done=len(done),
        failed=len({record.seed for record in records} - set(done)),
        planned=None if planned is None else len(planned),
        values=values,
        mean=mean,
        std=stdev(values.values()) if len(values) > 1 else None,
        best_mean=best,
        published=published,
        matching=matching,
        difference=own - published.value if own is not None and published else None,
    )


def _mean_of(records: Iterable[RunRecord], field: str) -> float | None:
    found = [value for record in records if (value := getattr(record, field)) is not None]
    return fmean(found) if found else None


def _by_seed(records: Sequence[RunRecord]) -> dict[int, RunRecord]:
    """The finished runs by seed; of several with one seed, the last to finish."""
    done = [record for record in records if record.status == "done"]
    by_seed = {record.seed: record for record in sorted(done, key=finished_at)}
    return dict(sorted(by_seed.items()))


def _published(records: Sequence[RunRecord], metric: Metric) -> Choice | None:
    """The published number of a cell if all its runs have the published setting; else None."""
    at_setting = all(record.has_published_setting for record in records)
    return find_number(records) if metric.is_accuracy and at_setting else None


def _find_baseline(cells: Mapping[CellKey, Cell], wanted: str) -> str | None:
    """The row with this label, else its only setting with values, if there is exactly one."""
    known = sorted({row for (row, _), cell in cells.items() if cell.values}, key=natural_key)
    if wanted in known:
        return wanted
    settings = [row for row in known if base_label(row) == wanted]
    return settings[0] if len(settings) == 1 else None


def _order(
    cells: Mapping[CellKey, Cell], metric: Metric, options: Options, baseline: str | None
) -> list[str]:
    """Row labels in order: the student alone first, then the baseline, then as requested."""
    if options.sort not in SORTS:
        raise ConfigError(f"--sort={options.sort!r} is unknown; allowed are {', '.join(SORTS)}")
    sign = -1 if metric.larger_is_better else 1

    def place(row: str) -> tuple:
        means = [c.mean for (name, _), c in cells.items() if name == row and c.mean is not None]
        alone = row.split(",")[0] in ("scratch", "none")
        if options.sort == "mean":
            return (not alone, not means, sign * fmean(means) if means else 0, natural_key(row))
        return (not alone, row != baseline, natural_key(row))

    return sorted({row for row, _ in cells}, key=place)


def _judge(
    cells: Mapping[CellKey, Cell], baseline: str | None, metric: Metric
) -> dict[CellKey, Cell]:
    """The cells with comparisons, and the best and the winner of each column marked."""
    judged = dict(cells)
    for column in {column for _, column in cells}:
        values = {row: c.values for (row, at), c in cells.items() if at == column and c.values}
        if baseline in values:
            compared = compare_all(values, baseline, larger_is_better=metric.larger_is_better)
            for row, found in compared.items():
                judged[row, column] = replace(judged[row, column], comparison=found)
        for row in _find_best(values, metric):
            judged[row, column] = replace(judged[row, column], is_best=True)
        winner = find_winner(values, larger_is_better=metric.larger_is_better)
        if winner is not None:
            judged[winner, column] = replace(judged[winner, column], is_winner=True)
    return judged


def _find_best(values: Mapping[str, Mapping[int, float]], metric: Metric) -> list[str]:
    """The rows with the best mean after rounding; none if there is only one row."""
    shown = {row: float(metric.write(fmean(own.values()))) for row, own in values.items()}
    if len(shown) < 2:
        return []
    best = max(shown.values()) if metric.larger_is_better else min(shown.values())
    return [row for row, value in shown.items() if value == best]


def _networks(grouped: RecordsByCell) -> dict[str, tuple[str, str]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for (_, column), records in grouped.items():
        pairs = {(str(record.teacher), record.student) for record in records if record.teacher}
        found.setdefault(column, set()).update(pairs)
    return {column: pairs.pop() for column, pairs in found.items() if len(pairs) == 1}


def _teachers(grouped: RecordsByCell) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for (_, column), records in grouped.items():
        known = [record.teacher_top1 for record in records if record.teacher_top1 is not None]
        found.setdefault(column, []).extend(known)
    return {column: fmean(known) for column, known in found.items() if known}


def _published_teachers(grouped: RecordsByCell) -> dict[str, Choice]:
    names = {
        column: (record.dataset, record.teacher)
        for (_, column), records in grouped.items()
        for record in records
        if record.teacher is not None
    }
    found = {column: find_teacher(*name) for column, name in names.items()}
    return {column: choice for column, choice in found.items() if choice is not None}


def _title(records: Sequence[RunRecord], name: str | None) -> str:
    """What all runs have in common."""
    parts = [name] if name else []
    for field, form in _COMMON.items():
        values = {getattr(record, field) for record in records}
        if len(values) == 1:
            parts.append(form(values.pop()))
    return ", ".join(parts)
