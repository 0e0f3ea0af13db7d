"""Time accounting: all time in the loop is charged to one kind of work and to its runs.

On a GPU the clock records events in the stream and synchronizes only when it is read.
"""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

OWN = ("step", "evaluation", "saving")  # for one run
SHARED = ("data", "teacher", "evaluation_data")  # once for all runs that need it
_MANY = 4096  # pending marks before completed ones are counted

Spent = dict[str, float]  # kind of work -> seconds; "part" and "seconds" as in ``TimeSheet.read``


class Clock(Protocol):
    """Marks points in the work of a device."""

    def mark(self) -> Any:
        """Marks the end of all work submitted so far, without waiting for it."""
        ...

    def has_passed(self, mark: Any) -> bool:
        """Whether the device has reached the mark; does not wait."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks; waits for the second one."""
        ...


class CpuClock:
    """A monotonic clock: on a CPU, work is done when the call returns."""

    def mark(self) -> float:
        """Monotonic time."""
        return time.monotonic()

    def has_passed(self, mark: float) -> bool:
        """Always."""
        return True

    def seconds(self, begin: float, end: float) -> float:
        """Their difference."""
        return end - begin


class CudaClock:
    """CUDA events in the current stream, as the host runs ahead of the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        """Records an event after all work so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def has_passed(self, mark: torch.cuda.Event) -> bool:
        """Whether the stream has reached it."""
        return mark.query()

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Device time between two events; waits for the second one."""
        if not end.query():
            end.synchronize()
        return begin.elapsed_time(end) / 1000


def make_clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


class TimeSheet:
    """Accounts for the time between marks; runs are distinguished by identity.

    Nested work is charged only to the innermost kind, so nothing is counted twice and all charges
    add up to the elapsed time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: list[tuple[str, tuple[Hashable, ...]]] = []  # innermost last
        self._last: Any = None
        self._marked: list[tuple[tuple, Any, Any]] = []  # account, begin, end; not yet counted
        self._accounts: dict[tuple, float] = defaultdict(float)
        self._before: dict[Hashable, Spent] = {}  # subtracted by ``read``

    @contextmanager
    def charge(self, kind: str, runs: Sequence[Hashable]) -> Iterator[None]:
        """Charges the enclosed work to some runs, in equal parts if there are several."""
        self._switch()
        self._open.append((kind, tuple(runs)))
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def read(self, run: Hashable) -> Spent:
        """Seconds of a run since the last ``take``, by kind of work; synchronizes.

        Shared work counts in full for each run that needs it: alone, the run would need as long.
        "part" divides it equally, so that a cohort adds up; "seconds" is the total elapsed time,
        including other runs' work.
        """
        total = self._total(run)
        before = self._before.get(run, {})
        return {kind: total[kind] - before.get(kind, 0.0) for kind in total}

    def take(self, run: Hashable) -> Spent:
        """Reads a run's time and resets it."""
        spent = self.read(run)
        self._before[run] = self._total(run)
        return spent

    def add(self, run: Hashable, spent: Mapping[str, float]) -> None:
        """Adds the time of an earlier attempt."""
        known = self._before.get(run, {})
        self._before[run] = {kind: known.get(kind, 0.0) - value for kind, value in spent.items()}

    def _total(self, run: Hashable) -> Spent:
        self._switch()
        self._count(wait=True)
        total = dict.fromkeys((*OWN, *SHARED, "part", "seconds"), 0.0)
        for (kind, runs, present), seconds in self._accounts.items():
            if run in runs:
                total[kind] += seconds
                total["part"] += seconds / len(runs)
            if run in present:
                total["seconds"] += seconds
        return total

    def _switch(self) -> None:
        """Marks the end of one kind of work and the start of the next."""
        mark = self._clock.mark()
        if self._open:
            account = (*self._open[-1], self._open[0][1])
            self._marked.append((account, self._last, mark))
        self._last = mark
        if len(self._marked) >= _MANY:
            self._count(wait=False)

    def _count(self, wait: bool) -> None:
        counted = 0
        for account, begin, end in self._marked:
            if not (wait or self._clock.has_passed(end)):
                break
            self._accounts[account] += self._clock.seconds(begin, end)
            counted += 1
        del self._marked[:counted]


def summarise_time(spent: Mapping[str, float]) -> dict[str, float]:
    """The times that a run records, in seconds.

    Args:
        spent: from ``TimeSheet``.

    Returns:
        "seconds", total elapsed; "own_seconds", steps, evaluation and checkpoints of this run;
        "shared_seconds", batches and teacher in full (alone, the run would take the sum of both);
        "part_seconds", own plus its part of the shared time; and by kind, "data_seconds",
        "teacher_seconds" and "evaluation_seconds".
    """
    return {
        "seconds": spent["seconds"],
        "own_seconds": sum(spent[kind] for kind in OWN),
        "shared_seconds": sum(spent[kind] for kind in SHARED),
        "part_seconds": spent["part"],
        "data_seconds": spent["data"],
        "teacher_seconds": spent["teacher"],
        "evaluation_seconds": spent["evaluation"] + spent["evaluation_data"],
    }
