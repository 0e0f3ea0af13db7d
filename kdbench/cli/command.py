"""Runs a console script: maps exceptions to messages and to ``errors.ExitCode``."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from kdbench.config.own import find_own_code
from kdbench.errors import ConfigError, ExitCode, Preempted, known_error
from kdbench.words import say

log = logging.getLogger("kdbench")


def log_to_terminal() -> None:
    """Logs to standard error, for commands without a log file."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # warnings only for other loggers


def run_command(
    work: Callable[[], int],
    *,
    interrupted: str = "interrupted",
    is_sweep: Callable[[], bool] = lambda: False,
) -> NoReturn:
    """Does the work of a console script and ends the process.

    Args:
        work: returns the exit code, or raises; its results go to standard output.
        interrupted: the message after Ctrl-C.
        is_sweep: whether a failure is that of one job of several, which has its own exit code.
    """
    try:
        find_own_code()
        code = _code_of(work)
        sys.stdout.flush()  # here, where a closed pipe is not an error
    except Preempted as stop:
        say(str(stop))
        code = stop.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        say(interrupted)
        code = ExitCode.INTERRUPTED
    except Exception as error:
        code = _explain(error, is_sweep())
    sys.exit(int(code))


def _code_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as end:  # how Hydra and argparse end --help
        if isinstance(end.code, str):
            raise
        return end.code or ExitCode.DONE


def _explain(error: Exception, is_sweep: bool) -> int:
    """Prints and logs the error, and returns the exit code."""
    known = known_error(error)
    trace = "".join(traceback.format_exception(error))
    if known is None:
        log.error("%s", trace)
        say("This is a bug in kdbench. Please report it with the command and the traceback above")
        return ExitCode.BUG
    log.debug("%s", trace)
    say(f"error: {known}")
    return ExitCode.SWEEP if is_sweep and not isinstance(known, ConfigError) else known.exit_code
