"""How a console script ends: with an exit code of ``kdbench.errors``, and a message for people."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from kdbench.config.own import find_own_code
from kdbench.errors import Preempted, known_error
from kdbench.words import say


def run_command(work: Callable[[], int]) -> NoReturn:
    """Does the work of a console script and ends the process.

    Args:
        work: returns the exit code, or raises; what it has to say goes to standard output, and
            what is logged to standard error.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("kdbench").setLevel(logging.INFO)  # of others, warnings only
    find_own_code()
    try:
        code = work()
        sys.stdout.flush()
    except Preempted as stop:
        say(str(stop))
        code = stop.exit_code
    except BrokenPipeError:  # the reader of our output has left, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    except Exception as error:
        code = _explain(error)
    sys.exit(code)


def _explain(error: Exception) -> int:
    known = known_error(error)
    if known is not None:
        say(f"error: {known}")
        return known.exit_code
    traceback.print_exception(error)
    say("This is a bug in kdbench. Please report it with the command and the text above")
    return 1
