"""How many CPU threads a run has, alone and in a sweep. Imports no torch."""

import os

VARIABLE = "OMP_NUM_THREADS"


def wanted_threads(threads: int | None) -> int | None:
    """``run.threads``, else what OMP_NUM_THREADS says; None where nobody has said anything.

    Slurm and containers set the variable. Of a list for nested levels, such as "4,1", the first
    number counts.
    """
    if threads is not None:
        return threads
    first = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def thread_variables(otherwise: int) -> dict[str, str]:
    """The environment of a process of a sweep: what was said for this one, else its cores."""
    return {VARIABLE: str(wanted_threads(None) or otherwise)}
