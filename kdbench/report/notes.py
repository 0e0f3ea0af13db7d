"""Notes on a table: what makes its numbers less comparable than they look."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.records.record import CHANGED, DEFAULT, PUBLISHED, PUBLISHED_DEFAULT, RunRecord
from kdbench.records.select import Condition, look_up
from kdbench.report.cells import Cell
from kdbench.report.layout import CellKey, RecordsByCell, base_label, own_temperature
from kdbench.report.published import find_number, knows
from kdbench.words import join_words, list_some, plural

# Fields in which all runs of a table should agree, and their names in notes.
_SAME = {
    "protocol": "protocols",
    "epochs": "budgets (epochs)",
    "precision": "precisions",
    "device": "devices",
    "environment.versions.kdbench": "versions of kdbench",
    "environment.versions.torch": "versions of torch",
}


def describe_mixes(records: Sequence[RunRecord]) -> list[str]:
    """One sentence for each field in which the runs of a table should agree but differ.

    Args:
        records: of the runs shown in the table.
    """
    return [
        *_mixes(records),
        *_revisions(records),
        *_namesakes(((f"{r.teacher}, {r.dataset}", r.teacher_digest) for r in records), "teachers"),
        *_namesakes(((r.dataset, r.dataset_digest) for r in records), "datasets"),
    ]


def describe_cells(grouped: RecordsByCell, cells: Mapping[CellKey, Cell]) -> list[str]:
    """One sentence for each caveat about the cells.

    Args:
        grouped: the runs of each cell.
        cells: the cells as shown.
    """
    return [
        *_repeated(grouped, cells),
        *_without_value(cells),
        *_unnamed(grouped),
        *_withheld(grouped),
        *_unpublished(grouped),
    ]


def describe_selection(filters: Sequence[Condition], protocol: str | None) -> list[str]:
    """How the runs of a table were selected.

    Args:
        filters: conditions that all runs meet.
        protocol: the selected one; None includes all.
    """
    chosen = [*map(str, filters), *([f"protocol={protocol}"] if protocol else [])]
    return [f"Only runs with {join_words(chosen)} are shown."] if chosen else []


def describe_missing(
    rows: Sequence[str], wanted: str, baseline: str | None, unfinished: Sequence[Path]
) -> list[str]:
    """What is missing from a table.

    Args:
        rows: of the table.
        wanted: the requested baseline.
        baseline: the row that the others are compared with, if any.
        unfinished: folders of unfinished runs.
    """
    notes = []
    if baseline is None and len(rows) > 1:
        near = [row for row in rows if base_label(row) == wanted != row]
        there = f" (similar: {list_some([repr(row) for row in near])})" if near else ""
        notes.append(
            f"No comparisons: no row {wanted!r} has values{there}; choose a baseline with "
            f"--baseline, or a single setting with --where."
        )
    elif baseline not in (wanted, None):
        notes.append(f"The baseline {wanted} is {baseline}, its only setting with values.")
    if unfinished:
        notes.append(f"Unfinished runs, not in the table: {len(unfinished)}.")
    return notes


def _mixes(records: Sequence[RunRecord]) -> Iterator[str]:
    for name, what in _SAME.items():
        counts = Counter(look_up(record, name) for record in records)
        if len(counts) > 1:
            yield f"This table mixes {what}: {_list_counts(counts)}."


def _revisions(records: Sequence[RunRecord]) -> Iterator[str]:
    commits = Counter((look_up(r, "environment.git.commit") or "")[:10] or None for r in records)
    if len(commits) > 1:
        yield f"This table mixes code revisions: {_list_counts(commits)}."
    dirty = [record for record in records if look_up(record, "environment.git.dirty")]
    if dirty:
        trees = {look_up(record, "environment.git.diff_digest") for record in dirty}
        several = f", in {len(trees)} different states" if len(trees) > 1 else ""
        yield (
            f"Trained with uncommitted code changes{several}: {plural(len(dirty), 'run')} of "
            f"{len(records)}."
        )


def _namesakes(digests: Iterable[tuple[str, str | None]], what: str) -> Iterator[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, digest in digests:
        if digest is not None:
            found[name].add(digest[:8])
    for name, several in found.items():
        if len(several) > 1:
            yield f"This table mixes {what} of equal name ({name}): {', '.join(sorted(several))}."


def _repeated(grouped: RecordsByCell, cells: Mapping[CellKey, Cell]) -> Iterator[str]:
    done = sum(record.status == "done" for records in grouped.values() for record in records)
    extra = done - sum(cell.done for cell in cells.values())
    if extra:
        yield (
            f"Of runs with equal row, column and seed, only the last to finish is shown; "
            f"{plural(extra, 'run is', 'runs are')} not."
        )


def _without_value(cells: Mapping[CellKey, Cell]) -> Iterator[str]:
    for (row, column), cell in cells.items():
        missing = cell.done - len(cell.values)
        if missing:
            yield (
                f"{row} ({column}): no value for {missing} of {plural(cell.done, 'run')}. The mean "
                f"excludes them, so it is optimistic if they never reached the level."
            )


def _unnamed(grouped: RecordsByCell) -> Iterator[str]:
    """The values of settings that a row leaves out but similar rows name."""
    rows: dict[str, dict[str, set[str]]] = defaultdict(dict)  # base -> row -> settings in its label
    for row, _ in grouped:
        rows[base_label(row)][row] = {p.split("=")[0] for p in row.split(", ") if "=" in p}
    for base, named in rows.items():
        usual = []
        for name in sorted(set().union(*named.values()) - {"teacher"}):
            without = [row for row, names in named.items() if name not in names]
            records = [r for (row, _), found in grouped.items() if row in without for r in found]
            if records:
                usual.append(f"{name}={_one_value(records, name)}")
        if usual:
            yield f"Rows of {base} have {', '.join(usual)} unless their label says otherwise."


def _one_value(records: Sequence[RunRecord], name: str) -> str:
    values = dict.fromkeys(str(look_up(record, name)) for record in records)
    return join_words(list(values), "or") if len(values) < 4 else "several values"


def _withheld(grouped: RecordsByCell) -> Iterator[str]:
    """Reasons for which published numbers are not shown."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for (row, column), records in grouped.items():
        number = find_number(records) if _is_usual(row, records) else None
        if number is None:
            continue
        for reason in filter(None, dict.fromkeys(map(_reason, records))):
            reasons[reason].append(f"{row} ({column}), {number.value:.2f}")
    for reason, cells in reasons.items():
        yield f"Published numbers not shown, {reason}: {list_some(cells, between='; ')}."


def _reason(record: RunRecord) -> str | None:
    found = record.setting_differs
    pairs = found.items() if isinstance(found, dict) else ()  # records are not trusted
    differs = [(key, *pair) for key, pair in pairs if isinstance(pair, list) and len(pair) == 2]
    changes = "; ".join(f"{key:.60}={usual!s:.40}, here {own!s:.40}" for key, usual, own in differs)
    return {
        PUBLISHED: None,
        PUBLISHED_DEFAULT: None,
        CHANGED: f"because they are for another setting ({changes})",
        DEFAULT: "because their setting is not published; the runs use the method's defaults"
        + (f" except {changes}" if changes else ""),
    }.get(str(record.setting), "because the records of the runs do not have their setting")


def _unpublished(grouped: RecordsByCell) -> Iterator[str]:
    """Lists rows with unpublished settings, on datasets with published numbers."""
    rows: dict[str, list[str]] = defaultdict(list)
    for (row, column), records in grouped.items():
        if any(r.setting == DEFAULT and knows(r.dataset) for r in records):
            rows[column].append(row)
    for column, found in rows.items():
        yield f"{column}: no published setting for {list_some(found)}; using the method's defaults."


def _is_usual(row: str, records: Sequence[RunRecord]) -> bool:
    """Whether the label of a row implies the method as published."""
    own = {own_temperature(r.method) for r in records} | {"none"}
    return base_label(row) == row and {r.temperature for r in records} <= own


def _list_counts(counts: Mapping[Any, int]) -> str:
    known = {("unknown" if value is None else str(value)): n for value, n in counts.items()}
    return ", ".join(f"{value} ({plural(n, 'run')})" for value, n in sorted(known.items()))
