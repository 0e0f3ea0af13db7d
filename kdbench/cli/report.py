"""``kdbench-report``: turns run folders into a table in the terminal, a page and files."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.errors import ConfigError, DataError
from kdbench.files import write_atomic
from kdbench.records.collect import Collection, collect, find_failure
from kdbench.records.select import may_hold, parse_conditions
from kdbench.report.cells import Options, Table
from kdbench.report.layout import AXES
from kdbench.report.render import write_csv, write_latex, write_markdown, write_text
from kdbench.report.table import SORTS, build_table, select
from kdbench.words import plural, say

_EXAMPLES = """examples
  kdbench-report outputs
  kdbench-report outputs --where dataset=cifar100 'seed<5' --sort mean
  kdbench-report outputs --figures paper/figures
  kdbench-report outputs --metric epochs_to.60 --rows temperature --baseline constant
  kdbench-report outputs --table ttm_cifar100 paths.data=DIR
  kdbench-report outputs --where dataset=cifar100 --compact    # methods x pairs, for a paper
"""
_MOST_LISTED = 5  # folders per category; the page lists all


def report(arguments: argparse.Namespace) -> int:
    """Prints and writes the report; returns the exit code.

    Raises:
        DataError: there is no run to show.
        ConfigError: an option is invalid.
    """
    from kdbench.report.page import write_figures, write_page

    outputs = arguments.outputs
    if not outputs.is_dir():
        raise DataError(f"{outputs} is not a folder; give the output folder of kdbench-train")
    found = collect(outputs)
    options = _choose_options(arguments)
    unfinished = [folder for folder in found.unfinished if may_hold(options.filters, folder)]
    aborted = {folder: reason for folder in unfinished if (reason := find_failure(folder))}
    _report_problems(found.problems, [folder for folder in unfinished if folder not in aborted])
    shown = Collection(select(found.runs, options), unfinished, found.problems)
    if not shown.runs:
        raise DataError(_explain_nothing(found, outputs))
    table = build_table(shown.runs, shown.unfinished, options)
    folder = arguments.out or outputs / "report"
    names = list(_write_files(folder, table, arguments.compact))
    for problem in write_page(folder / "report.html", shown, table):
        say(f"no curves: {problem}")
    print(write_text(table, arguments.compact))
    _report_failures(shown, aborted)
    print(_count_runs(shown, found, outputs))
    print(f"written: {', '.join([str(folder / 'report.html'), *names])}")
    if arguments.figures:
        drawn = write_figures(arguments.figures, shown, table)
        print(f"{len(drawn)} figures (PDF, SVG, PNG) in {arguments.figures}")
    return 0


def main() -> None:
    """Entry point of ``kdbench-report``."""
    arguments = _parse(sys.argv[1:])
    log_to_terminal()
    run_command(lambda: report(arguments))


def _choose_options(arguments: argparse.Namespace) -> Options:
    planned, name = None, None
    if arguments.table:
        from kdbench.planning.plan import planned_cells

        if (arguments.rows, arguments.columns) != ("method", "pair"):
            raise ConfigError("--table always has methods x pairs; omit --rows and --columns")
        name, *overrides = arguments.table
        planned = planned_cells(name, overrides)
    return Options(
        metric=arguments.metric,
        rows=arguments.rows,
        columns=arguments.columns,
        filters=parse_conditions(arguments.where),
        sort=arguments.sort,
        baseline=arguments.baseline,
        protocol=arguments.protocol,
        planned=planned,
        name=name,
    )


def _write_files(folder: Path, table: Table, compact: bool) -> Iterator[str]:
    """Writes the table in every format; yields the file names."""
    for name, is_compact in (("table", False), ("compact", True)):
        if is_compact and not compact:
            continue
        for suffix, write in (("md", write_markdown), ("tex", write_latex), ("csv", write_csv)):
            write_atomic(folder / f"{name}.{suffix}", write(table, is_compact).encode())
            yield f"{name}.{suffix}"


def _report_problems(problems: Sequence[str], unfinished: Sequence[Path]) -> None:
    for problem in problems:
        say(f"problem: {problem}")
    lines = [f"{folder} is unfinished" for folder in unfinished]
    for line in _fold(lines):
        say(f"left out: {line}")


def _report_failures(shown: Collection, aborted: Mapping[Path, str]) -> None:
    """Prints failed runs, including those that failed before they wrote a record."""
    ended = {r.folder: r.record.reason for r in shown.distinct if r.record.status != "done"}
    failed = {**ended, **aborted}
    if failed:
        print(f"Failed: {len(failed)}")
        for line in _fold([f"{folder}: {reason}" for folder, reason in failed.items()]):
            print(f"  {line}")


def _fold(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _MOST_LISTED
    more = [f"and {rest} more, listed on the page"] if rest > 0 else []
    return [*lines[:_MOST_LISTED], *more]


def _count_runs(shown: Collection, found: Collection, outputs: Path) -> str:
    students = sum(not run.record.is_of_teacher for run in found.runs)
    teachers = len(found.runs) - students
    of_teachers = plural(teachers, "more trained a teacher", "more trained teachers")
    more = f"; {of_teachers}" if teachers else ""
    among = plural(students, "run")
    return f"This table has {len(shown.distinct)} of {among} below {outputs}{more}."


def _explain_nothing(found: Collection, outputs: Path) -> str:
    if not found.runs:
        return (
            f"no run has ended below {outputs}; train one with kdbench-train, or give the folder "
            f"of paths.outputs"
        )
    if all(run.record.is_of_teacher for run in found.runs):
        only = "the only run" if len(found.runs) == 1 else f"all {len(found.runs)} runs"
        return (
            f"{only} below {outputs} trained a teacher, but a table compares students; evaluate it "
            f"with kdbench-evaluate {found.runs[0].folder}, or give a folder with runs of students"
        )
    return (
        f"none of the {plural(len(found.runs), 'run')} below {outputs} matches --where, "
        f"--protocol and --table; relax them"
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="kdbench-report",
        description="Compare runs: mean and spread over seeds, published numbers, statistics.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("outputs", type=Path, help="folder that contains the runs")
    add("--out", type=Path, help="folder for the files (default: OUTPUTS/report)")
    add("--figures", type=Path, metavar="DIR", help="write the figures to DIR: PDF, SVG, PNG")
    add("--metric", default=default.metric, help="top1_last, nll, agreement, epochs_to.60, ...")
    add("--rows", choices=AXES, default=default.rows)
    add("--columns", choices=AXES, default=default.columns)
    add("--where", nargs="+", default=[], metavar="CONDITION", help="NAME=VALUE[,VALUE], 'seed<5'")
    add("--sort", choices=SORTS, default=default.sort)
    add("--protocol", choices=("paper", "strict"), help="default: both, with a note")
    add("--baseline", help="row to compare the others with (kd, or constant)")
    add("--compact", action="store_true", help="means of methods x pairs, as papers print them")
    add(
        "--table",
        nargs="+",
        metavar=("NAME", "OVERRIDE"),
        help="only the cells and seeds of conf/table/NAME.yaml",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
