"""Named points at which a test can kill the process, to test recovery from a crash there.

Off by default. ``KDBENCH_KILL_AT=<point>:<n>`` makes the process send itself SIGKILL when it passes
the point for the n-th time.
"""

import os
import signal
from collections import Counter

VARIABLE = "KDBENCH_KILL_AT"
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Kills the process here if the environment names this point and occurrence."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
