"""``python -m kdbench.cli.table TABLE [OVERRIDES]``: what ``make table`` would train and cost."""

import sys
from collections.abc import Sequence

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.errors import ConfigError
from kdbench.planning.forecast import write_forecast
from kdbench.planning.plan import plan_table
from kdbench.words import say


def forecast(arguments: Sequence[str]) -> int:
    """Prints the forecast of the table that is the first argument; returns the exit code.

    Raises:
        ConfigError: the table or an override does not exist.
    """
    if not arguments:
        raise ConfigError("no table is given: python -m kdbench.cli.table TABLE [OVERRIDES]")
    table, *overrides = arguments
    plan = plan_table(table, overrides)
    from kdbench.planning.speed import Speeds  # it imports torch; mistakes are reported before

    speeds = Speeds(plan.runs[0].config, note=say)
    print(f"{write_forecast(plan, speeds.of)}\n\nmachine: {speeds.machine}")
    return 0


def main() -> None:
    """Entry point of ``python -m kdbench.cli.table``."""
    log_to_terminal()
    run_command(lambda: forecast(sys.argv[1:]))


if __name__ == "__main__":
    main()
