"""How a console script ends: with one of ``errors.ExitCode``, and a message for people."""

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
    """Shows what is logged on standard error, for commands that have no log of their own."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # of others, warnings only


def run_command(
    work: Callable[[], int],
    *,
    interrupted: str = "interrupted",
    is_sweep: Callable[[], bool] = lambda: False,
) -> NoReturn:
    """Does the work of a console script and ends the process.

    Args:
        work: returns the exit code, or raises; its results go to standard output.
        interrupted: what to say after Ctrl-C.
        is_sweep: whether what fails is some job of several: that has a code of its own.
    """
    try:
        find_own_code()
        code = _code_of(work)
        sys.stdout.flush()  # here, where a reader that has left is no error
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
    """Says what went wrong, to the log too, and returns the exit code."""
    known = known_error(error)
    trace = "".join(traceback.format_exception(error))
    if known is None:
        log.error("%s", trace)
        say("This is a bug in kdbench. Please report it with the command and the text above")
        return ExitCode.BUG
    log.debug("%s", trace)
    say(f"error: {known}")
    return ExitCode.SWEEP if is_sweep and not isinstance(known, ConfigError) else known.exit_code
