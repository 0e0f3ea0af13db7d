"""Named points at which a test can kill the process. Off unless the environment asks for one.

``KDBENCH_KILL_AT=<point>:<n>`` sends SIGKILL to the own process when the point is passed for the
n-th time. What a crash at that point leaves behind is then what the next start must cope with.
"""

import os
import signal
from collections import Counter

VARIABLE = "KDBENCH_KILL_AT"
_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Dies here if the environment names this point and occurrence."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
