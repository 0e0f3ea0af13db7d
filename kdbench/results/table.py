"""Records to tables: collects what runs say of themselves and sets it side by side.

``python -m kdbench.results.table outputs/runs`` prints the comparison of the runs below a folder.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from kdbench.errors import CheckpointError
from kdbench.results.record import FILE, RunRecord, read_record

COLUMNS = ("method", "temperature", "top-1 (last epoch)", "best epoch*", "agreement", "s per run")


def collect(outputs: Path) -> tuple[list[RunRecord], list[str]]:
    """All records below a folder, and one sentence for each file that could not be read."""
    records, problems = [], []
    for path in sorted(outputs.rglob(FILE)):
        try:
            records.append(read_record(path.parent))
        except CheckpointError as error:
            problems.append(str(error))
    return records, problems


def compare(records: Sequence[RunRecord]) -> str:
    """A table per dataset and pair: one row per method and temperature, spread over seeds.

    Accuracies are percent, mean and standard deviation over n seeds.
    """
    cells: dict[tuple, list[RunRecord]] = defaultdict(list)
    for record in records:
        cells[record.dataset, record.pair, record.epochs, record.protocol].append(record)
    return "\n\n".join(_block(key, found) for key, found in sorted(cells.items()))


def _block(key: tuple, records: Sequence[RunRecord]) -> str:
    dataset, pair, epochs, protocol = key
    teachers = sorted({f"{r.teacher_top1:.2f} %" for r in records if r.teacher_top1 is not None})
    head = f"{dataset}, {pair}, {epochs} epochs, protocol {protocol}"
    if teachers:
        head += f"; teacher {' / '.join(teachers)}"
    rows: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        rows[record.method, record.temperature].append(record)
    order = sorted(rows, key=lambda row: (row[0] != "scratch", row))
    return f"{head}\n{_align([COLUMNS, *(_row(name, rows[name]) for name in order)])}"


def _row(name: tuple[str, str], records: Sequence[RunRecord]) -> tuple[str, ...]:
    done = [record for record in records if record.status == "done"]
    failed = len(records) - len(done)
    note = f", {failed} failed" if failed else ""
    return (
        *name,
        _spread([r.top1_last for r in done]) + note,
        _spread([r.top1_best for r in done]),
        _spread([r.test.get("agreement") for r in done]),
        f"{fmean([r.seconds for r in done]):.0f}" if done else "-",
    )


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {stdev(known):.2f}" if len(known) > 1 else ""
    return f"{fmean(known):.2f}{spread} (n={len(known)})"


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main() -> None:
    """Prints the comparison of the runs below the folder given as the only argument."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kdbench.results.table FOLDER")
    records, problems = collect(Path(sys.argv[1]))
    if not records:
        sys.exit(f"no finished run below {sys.argv[1]}")
    print(f"\n{compare(records)}\n\n* picked on the test set: optimistic, never the result")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
