"""``kdbench-table``: trains, forecasts and prints a table of a paper."""

import argparse
import sys
from collections.abc import Callable, Sequence
from textwrap import shorten

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.config.choices import describe, options_of
from kdbench.config.compose import CONF
from kdbench.config.overrides import check_overrides
from kdbench.errors import ConfigError, SweepError
from kdbench.planning.forecast import write_forecast
from kdbench.planning.plan import find_folders, plan_table
from kdbench.planning.settings import write_settings
from kdbench.words import say

_WIDTH = 110
_EXAMPLES = """examples
  kdbench-table                                            # list the tables
  kdbench-table ttm_cifar100 --dry paths.data=DIR          # what is done, cost of the rest
  kdbench-table ttm_cifar100 paths.data=DIR                # train the rest, print the table
  kdbench-table dkd_cifar100 pair=resnet56_resnet20 seed=0,1 teacher.weights=FILE
  kdbench-table --settings ttm                             # print the settings of TTM for each pair

exit codes: 0 done; 9 some runs failed, the table has the others; full list: docs, "Exit codes"
"""


def run_table(arguments: argparse.Namespace) -> int:
    """Executes the command line; returns the exit code.

    Raises:
        ConfigError: the table, the method or an override does not exist, or options are mutually
            exclusive.
    """
    if arguments.settings is not None:
        _refuse_table(arguments, "--settings METHOD")
        print(write_settings(arguments.settings))
        return 0
    if arguments.name is None or arguments.list:
        if arguments.list:
            _refuse_table(arguments, "--list")
        print(list_tables())
        return 0
    if arguments.dry:
        log_to_terminal()
        return forecast(arguments.name, arguments.overrides)
    return train_table(arguments.name, arguments.overrides)


def list_tables() -> str:
    """The tables of ``conf/table``, one per line."""
    names = options_of(CONF / "table")
    width = max(map(len, names)) + 2
    lines = (f"{name:{width}}{describe(CONF / 'table' / f'{name}.yaml')}" for name in names)
    return "\n".join(_shorten_line(line) for line in lines)


def _shorten_line(line: str) -> str:
    """Cuts a line to the width of the terminal, keeping the spacing between columns."""
    name, _, about = line.partition("  ")
    blanks = len(about) - len(about.lstrip()) + 2
    return f"{name}{' ' * blanks}{shorten(about, _WIDTH - len(name) - blanks, placeholder=' ...')}"


def forecast(table: str, overrides: Sequence[str]) -> int:
    """Prints what a table would train and its cost; trains nothing.

    Raises:
        ConfigError: the table or an override does not exist.
    """
    plan = plan_table(table, overrides)
    from kdbench.planning.speed import Speeds  # imports torch: after usage errors are reported

    speeds = Speeds(plan.runs[0].config, note=say)
    print(f"{write_forecast(plan, speeds.of)}\n\nmachine: {speeds.machine}")
    return 0


def train_table(table: str, overrides: Sequence[str]) -> int:
    """Trains the missing runs of a table, then prints the table and writes its page.

    Returns:
        0, or SweepError's exit code if some runs failed; the table then has the others. If
        training or reporting failed otherwise, the exit code of that step.
    """
    check_overrides([f"table={table}", *overrides], values=False)
    from kdbench.cli import report, train  # the import guards all that Hydra composes from here on

    trained = _call(train.main, "kdbench-train", "-m", f"table={table}", *overrides)
    if trained not in (0, SweepError.exit_code):
        return trained
    runs, outputs = find_folders(table, overrides)
    place = [str(runs), "--out", str(outputs / "tables" / table)]
    return _call(report.main, "kdbench-report", *place, "--table", table, *overrides) or trained


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line of ``kdbench-table``."""
    parser = argparse.ArgumentParser(
        prog="kdbench-table",
        description="Train the missing runs of a paper's table, and print the table.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="of conf/table; without it, list the tables")
    add("overrides", nargs="*", metavar="OVERRIDE", help="KEY=VALUE, as for kdbench-train -m")
    add("--dry", action="store_true", help="print the runs, their states, and the cost of the rest")
    add("--list", action="store_true", help="list the tables")
    add("--settings", metavar="METHOD", help="print the settings of METHOD for each pair")
    return parser.parse_intermixed_args(arguments)


def main() -> None:
    """Entry point of ``kdbench-table``."""
    arguments = parse(sys.argv[1:])
    run_command(lambda: run_table(arguments))


def _call(command: Callable[[], None], name: str, *arguments: str) -> int:
    """The exit code of another command, run in this process so that it receives signals."""
    sys.argv = [name, *arguments]
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _refuse_table(arguments: argparse.Namespace, option: str) -> None:
    if arguments.name is not None:
        raise ConfigError(f"{option} takes neither a table nor overrides; remove {arguments.name}")


if __name__ == "__main__":
    main()
