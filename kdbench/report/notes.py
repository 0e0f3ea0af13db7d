"""What a reader must know before comparing the numbers of a table."""

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

# What all runs of a table should agree in, and what it means for people.
_SAME = {
    "protocol": "protocols",
    "epochs": "budgets (epochs)",
    "precision": "precisions",
    "device": "devices",
    "environment.versions.kdbench": "versions of kdbench",
    "environment.versions.torch": "versions of torch",
}


def describe_mixes(records: Sequence[RunRecord]) -> list[str]:
    """One sentence for each thing that makes the runs of a table less comparable than they look.

    Args:
        records: of the runs that the table shows.
    """
    return [
        *_mixes(records),
        *_revisions(records),
        *_namesakes(((f"{r.teacher}, {r.dataset}", r.teacher_digest) for r in records), "teachers"),
        *_namesakes(((r.dataset, r.dataset_digest) for r in records), "datasets"),
    ]


def describe_cells(grouped: RecordsByCell, cells: Mapping[CellKey, Cell]) -> list[str]:
    """One sentence for each thing about the cells that their numbers do not show.

    Args:
        grouped: the runs of each cell.
        cells: what the table shows of them.
    """
    return [
        *_repeated(grouped, cells),
        *_without_value(cells),
        *_unnamed(grouped),
        *_withheld(grouped),
        *_unpublished(grouped),
    ]


def describe_selection(filters: Sequence[Condition], protocol: str | None) -> list[str]:
    """What the runs of a table were chosen by, which their numbers do not show.

    Args:
        filters: conditions that all of them meet.
        protocol: the only one that was asked for; None takes all.
    """
    chosen = [*map(str, filters), *([f"protocol={protocol}"] if protocol else [])]
    return [f"Only runs with {join_words(chosen)} are shown."] if chosen else []


def describe_missing(
    rows: Sequence[str], wanted: str, baseline: str | None, unfinished: Sequence[Path]
) -> list[str]:
    """What a reader may look for and will not find.

    Args:
        rows: of the table.
        wanted: what the others were to be compared with.
        baseline: the row that they are compared with.
        unfinished: folders of runs that have begun and not ended.
    """
    notes = []
    if baseline is None and len(rows) > 1:
        near = [row for row in rows if base_label(row) == wanted != row]
        there = f"; there are {list_some([repr(row) for row in near])}" if near else ""
        notes.append(
            f"Nothing is compared, because no row with values is called {wanted!r}{there}: choose "
            f"one by --baseline, or one setting by --where."
        )
    elif baseline not in (wanted, None):
        notes.append(f"{wanted} is {baseline} here, the only setting of it that has values.")
    if unfinished:
        notes.append(f"Runs that have begun and not ended are in no cell: {len(unfinished)}.")
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
            f"Made with uncommitted changes of the code{several}: {plural(len(dirty), 'run')} of "
            f"{len(records)}."
        )


def _namesakes(digests: Iterable[tuple[str, str | None]], what: str) -> Iterator[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, digest in digests:
        if digest is not None:
            found[name].add(digest[:8])
    for name, several in found.items():
        if len(several) > 1:
            yield f"This table mixes {what} of one name ({name}): {', '.join(sorted(several))}."


def _repeated(grouped: RecordsByCell, cells: Mapping[CellKey, Cell]) -> Iterator[str]:
    done = sum(record.status == "done" for records in grouped.values() for record in records)
    extra = done - sum(cell.done for cell in cells.values())
    if extra:
        yield (
            f"Of runs with the same row, column and seed, the one that finished last is shown; "
            f"{plural(extra, 'run is', 'runs are')} not."
        )


def _without_value(cells: Mapping[CellKey, Cell]) -> Iterator[str]:
    for (row, column), cell in cells.items():
        missing = cell.done - len(cell.values)
        if missing:
            yield (
                f"{row} ({column}): no such value in {missing} of {plural(cell.done, 'run')}. The "
                f"mean leaves them out, and flatters if they never got that far."
            )


def _unnamed(grouped: RecordsByCell) -> Iterator[str]:
    """What rows have that name no value where rows beside them are named by one."""
    rows: dict[str, dict[str, set[str]]] = defaultdict(dict)  # by base, row: the names it names
    for row, _ in grouped:
        rows[base_label(row)][row] = {p.split("=")[0] for p in row.split(", ") if "=" in p}
    for base, named in rows.items():
        usual = []
        for name in sorted(set().union(*named.values()) - {"teacher"}):
            silent = [row for row, names in named.items() if name not in names]
            records = [r for (row, _), found in grouped.items() if row in silent for r in found]
            if records:
                usual.append(f"{name}={_one_value(records, name)}")
        if usual:
            yield f"Rows of {base} that do not name it have {', '.join(usual)}, as most of them."


def _one_value(records: Sequence[RunRecord], name: str) -> str:
    values = dict.fromkeys(str(look_up(record, name)) for record in records)
    return join_words(list(values), "or") if len(values) < 4 else "several values"


def _withheld(grouped: RecordsByCell) -> Iterator[str]:
    """Why a published number does not stand beside runs of its name."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for (row, column), records in grouped.items():
        number = find_number(records) if _is_usual(row, records) else None
        if number is None:
            continue
        for reason in filter(None, dict.fromkeys(map(_reason, records))):
            reasons[reason].append(f"{row} ({column}), {number.value:.2f}")
    for reason, cells in reasons.items():
        yield f"Published numbers that are not shown, {reason}: {list_some(cells, between='; ')}."


def _reason(record: RunRecord) -> str | None:
    found = record.setting_differs
    pairs = found.items() if isinstance(found, dict) else ()  # a record may say anything
    differs = [(key, *pair) for key, pair in pairs if isinstance(pair, list) and len(pair) == 2]
    changes = "; ".join(f"{key:.60}={usual!s:.40}, here {own!s:.40}" for key, usual, own in differs)
    return {
        PUBLISHED: None,
        PUBLISHED_DEFAULT: None,
        CHANGED: f"because they are of another setting ({changes})",
        DEFAULT: "because nobody says at which setting, and the runs have the method's own values"
        + (f" but for {changes}" if changes else ""),
    }.get(str(record.setting), "because the runs' records do not say at which setting they are")


def _unpublished(grouped: RecordsByCell) -> Iterator[str]:
    """Names the rows whose setting nobody published, on datasets of which papers have numbers."""
    rows: dict[str, list[str]] = defaultdict(list)
    for (row, column), records in grouped.items():
        if any(r.setting == DEFAULT and knows(r.dataset) for r in records):
            rows[column].append(row)
    for column, found in rows.items():
        yield f"{column}: nobody published a setting of {list_some(found)}; it is the method's own."


def _is_usual(row: str, records: Sequence[RunRecord]) -> bool:
    """Whether the label of a row promises its method as published."""
    own = {own_temperature(r.method) for r in records} | {"none"}
    return base_label(row) == row and {r.temperature for r in records} <= own


def _list_counts(counts: Mapping[Any, int]) -> str:
    known = {("unknown" if value is None else str(value)): n for value, n in counts.items()}
    return ", ".join(f"{value} ({plural(n, 'run')})" for value, n in sorted(known.items()))
