"""Who spent the time: every moment of the loop is charged to one kind of work and to its runs.

On a GPU the clock is a list of events in the stream, which nobody waits for until somebody reads.
"""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

OWN = ("step", "evaluation", "saving")  # of one run
SHARED = ("data", "teacher", "evaluation_data")  # done once for all runs that need it
_MANY = 4096  # marks that are kept before those that have passed are counted

Spent = dict[str, float]  # kind of work -> seconds; "part" and "seconds" as in ``TimeSheet.read``


class Clock(Protocol):
    """Marks moments of the work of a device."""

    def mark(self) -> Any:
        """The end of all work that was given to the device before; does not wait for it."""
        ...

    def has_passed(self, mark: Any) -> bool:
        """Whether the device is there; does not wait."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks; waits for the second one."""
        ...


class CpuClock:
    """The work is done when the call returns."""

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
    """Events in the current stream of a device: the host runs ahead, and so would its clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        """An event behind all work so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def has_passed(self, mark: torch.cuda.Event) -> bool:
        """Whether the stream has reached it."""
        return mark.query()

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Of the device; waits where it is not there yet."""
        if not end.query():
            end.synchronize()
        return begin.elapsed_time(end) / 1000


def make_clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


class TimeSheet:
    """Accounts of the time between marks; runs are told apart by identity.

    Work inside other work is charged to itself alone, so nothing is counted twice, and what is
    charged to all kinds adds up to the time that passed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: list[tuple[str, tuple[Hashable, ...]]] = []  # the innermost work last
        self._last: Any = None
        self._marked: list[tuple[tuple, Any, Any]] = []  # account, begin, end; not counted yet
        self._accounts: dict[tuple, float] = defaultdict(float)
        self._before: dict[Hashable, Spent] = {}  # what ``read`` leaves out

    @contextmanager
    def charge(self, kind: str, runs: Sequence[Hashable]) -> Iterator[None]:
        """Charges what is done inside to some runs: their own work, or shared in equal parts."""
        self._turn()
        self._open.append((kind, tuple(runs)))
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def read(self, run: Hashable) -> Spent:
        """Seconds of a run since it was last taken, by kind of work; waits for the device.

        Shared work counts in full for each run that needed it: it would have cost that much alone.
        "part" counts it in equal parts, so that a cohort adds up; "seconds" is all time that
        passed meanwhile, other runs' work included.
        """
        total = self._total(run)
        before = self._before.get(run, {})
        return {kind: total[kind] - before.get(kind, 0.0) for kind in total}

    def take(self, run: Hashable) -> Spent:
        """Reads a run's time and begins anew."""
        spent = self.read(run)
        self._before[run] = self._total(run)
        return spent

    def add(self, run: Hashable, spent: Mapping[str, float]) -> None:
        """Time of an earlier attempt."""
        known = self._before.get(run, {})
        self._before[run] = {kind: known.get(kind, 0.0) - value for kind, value in spent.items()}

    def _total(self, run: Hashable) -> Spent:
        self._turn()
        self._count(wait=True)
        total = dict.fromkeys((*OWN, *SHARED, "part", "seconds"), 0.0)
        for (kind, runs, present), seconds in self._accounts.items():
            if run in runs:
                total[kind] += seconds
                total["part"] += seconds / len(runs)
            if run in present:
                total["seconds"] += seconds
        return total

    def _turn(self) -> None:
        """Here one kind of work ends, and another one begins."""
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
    """The times that a run writes down, in seconds.

    Args:
        spent: from ``TimeSheet``.

    Returns:
        "seconds", of the whole pass; "own_seconds", steps, evaluation and checkpoints of this run;
        "shared_seconds", batches and teacher, in full: alone it would take both together;
        "part_seconds", own and its part of the shared ones; of these, "data_seconds",
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
