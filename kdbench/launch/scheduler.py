"""The queue of a sweep: runs groups in free slots, and retries those whose process died.

A group whose process died is retried in another slot. After two deaths without progress its runs
are retried one by one, so that a bad run cannot take the others down. A run whose process died
three times without progress fails with exit code 8. The scheduler waits for runs that another
process, such as another sweep, is training. A group whose teacher, or a teacher of its teacher, is
being trained for another group starts after that.
"""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.engine.signals import StopSignals
from kdbench.errors import GaveUpError, Preempted
from kdbench.launch.executor import Executor, Slot, Worker
from kdbench.launch.group import (
    FAILED,
    HELD,
    RETURNED,
    Group,
    Member,
    RunStatus,
    Tail,
    is_done,
    parse_outcome,
    write_request,
)
from kdbench.records.lock import is_held
from kdbench.words import plural

MAX_ATTEMPTS = 3  # consecutive deaths without progress
HELD_INTERVAL = 2.0  # seconds between checks of runs that other processes train
SLOT_DEATHS = 2  # consecutive deaths after which a slot is no longer used, if there are others


@dataclass
class _Running:
    group: Group
    slot: Slot
    worker: Worker
    request: Path
    output: Tail
    outcomes: Tail


class Scheduler:
    """Trains groups in the slots of an executor.

    Args:
        executor: where the processes run.
        slots: its slots.
        folder: for the files exchanged with the processes.
        say: prints a message.
        on_start: called before a run starts or is retried; returns why it cannot start, or None.
        on_outcome: called with every outcome.
        fail_fast: stop after this many failures for the same reason; None to never stop.
    """

    def __init__(
        self,
        executor: Executor,
        slots: Sequence[Slot],
        folder: Path,
        say: Callable[[str], None],
        on_start: Callable[[Member], RunStatus | None],
        on_outcome: Callable[[RunStatus], None],
        fail_fast: int | None,
    ) -> None:
        self.executor, self.folder, self.say = executor, folder, say
        self.on_start, self.on_outcome, self.fail_fast = on_start, on_outcome, fail_fast
        self.free, self.slots = list(slots), len(slots)
        self.queue: deque[Group] = deque()
        self.held: list[Group] = []  # by other processes
        self.checked_held = 0.0
        self.running: list[_Running] = []
        self.deaths: Counter[str] = Counter()  # by slot, consecutive
        self.reasons: Counter[str] = Counter()
        self.started = 0
        self.ready: set[str] = set()  # folders of trained teachers
        self.waiting: set[int] = set()  # groups reported to wait for a teacher

    def run(self, groups: Sequence[Group]) -> None:
        """Trains all groups and reports the outcome of every run that ends.

        Raises:
            Preempted: stopped by a signal; the workers have saved and exited.
        """
        self.queue.extend(groups)
        try:
            with StopSignals() as stop:
                while self.queue or self.running or self.held:
                    self._check_held()
                    self._fill_slots()
                    self._check_workers()
                    if stop.requested or self._has_failed_enough():
                        self._stop_workers()
                        break
                    time.sleep(self.executor.interval)
        finally:
            for running in self.running:
                running.worker.kill()
        if stop.requested:
            raise Preempted(
                f"stopped by {stop.requested}; the runs in progress are saved. The same command "
                f"continues"
            )

    def _fill_slots(self) -> None:
        for slot in list(self.free):
            while (group := self._next_for(slot)) is not None:
                if self._prepare(group):
                    self.free.remove(slot)
                    self._start(group, slot)
                    break

    def _next_for(self, slot: Slot) -> Group | None:
        in_work = self._stages_in_work()
        for group in self.queue:
            waits = not in_work.isdisjoint(group.stages())
            if waits and id(group) not in self.waiting:
                self.waiting.add(id(group))
                self.say(f"waiting for a teacher that is being trained: {_describe(group.members)}")
            if not waits and (group.avoid != slot.name or self.slots == 1):
                self.queue.remove(group)
                return group
        return None

    def _stages_in_work(self) -> set[str]:
        """Folders of the teachers that running groups train, to be trained only once."""
        wanted = {folder for running in self.running for folder in running.group.stages()}
        self.ready |= {folder for folder in wanted - self.ready if is_done(folder)}
        return wanted - self.ready

    def _prepare(self, group: Group) -> bool:
        """Drops and reports the runs that cannot start; returns whether any is left."""
        problems = {member.key: self.on_start(member) for member in group.members}
        group.members = [m for m in group.members if problems[m.key] is None]
        for problem in filter(None, problems.values()):
            self._report(problem)
        return bool(group.members)

    def _start(self, group: Group, slot: Slot) -> None:
        request = self.folder / f"worker{self.started:03d}.json"
        self.started += 1
        write_request(request, group.members, slot.share)
        group.mark_progress()
        self.say(f"{slot.name}: {_describe(group.members)}; {request.with_suffix('.log')}")
        worker = self.executor.start(request, slot)
        tails = Tail(request.with_suffix(".log")), Tail(request.with_suffix(".jsonl"))
        self.running.append(_Running(group, slot, worker, request, *tails))

    def _check_workers(self) -> None:
        for running in list(self.running):
            code = running.worker.poll()  # first, so that the files read below are complete
            self._read(running)
            if code is not None:
                self.running.remove(running)
                self.free.append(running.slot)
                if running.group.members:
                    self._retry(running, code)
                else:
                    self.deaths[running.slot.name] = 0

    def _read(self, running: _Running) -> None:
        """Forwards the output of a worker and handles the runs that have ended."""
        prefix = f"[{running.slot.name}] " if self.slots > 1 else ""
        for line in running.output.lines():
            self.say(prefix + line)
        outcomes = [parse_outcome(line) for line in running.outcomes.lines()]
        ended = {outcome.key for outcome in outcomes}
        members = running.group.members
        running.group.members = [m for m in members if m.key not in ended]
        returned = [m for m in members if RunStatus(m.key, RETURNED) in outcomes]
        self.queue.extendleft(reversed(self._regroup(returned, len(members))))
        held = [outcome for outcome in outcomes if outcome.status == HELD]
        if held:
            keys = {outcome.key for outcome in held}
            self.held.append(Group([m for m in members if m.key in keys]))
            self.say(f"waiting for {_describe(self.held[-1].members)}: {held[0].reason}")
        for outcome in outcomes:
            if outcome.status not in (RETURNED, HELD):
                self._report(outcome)

    def _regroup(self, returned: Sequence[Member], size: int) -> list[Group]:
        """Groups of the runs that did not fit in memory, each smaller than the original group."""
        if len(returned) < size:
            return [Group(returned)] if returned else []
        middle = (len(returned) + 1) // 2
        return [Group(half) for half in (returned[:middle], returned[middle:]) if half]

    def _check_held(self) -> None:
        """Queues the runs that other processes have released, finished or not."""
        if time.monotonic() - self.checked_held < HELD_INTERVAL:
            return
        self.checked_held = time.monotonic()
        for group in list(self.held):
            if not any(is_held(Path(member.folder)) for member in group.members):
                self.held.remove(group)
                self.queue.append(group)

    def _report(self, outcome: RunStatus) -> None:
        if outcome.status == FAILED:
            self.reasons[re.sub(r"\d+", "#", outcome.reason.partition("\n")[0])] += 1
        self.on_outcome(outcome)

    def _retry(self, running: _Running, code: int) -> None:
        """Queues the unfinished runs of a process that has ended, or gives them up."""
        group, slot = running.group, running.slot
        group.attempts = 0 if group.has_progressed() else group.attempts + 1
        group.avoid = slot.name
        self._count_death(slot, group.attempts)
        end = f"exit code {code}" if code >= 0 else f"signal {-code}"
        unfinished = _describe(group.members)
        self.say(f"{slot.name}: the process ended with {end}; unfinished: {unfinished}")
        if group.attempts == MAX_ATTEMPTS:
            for member in group.members:
                self._report(_given_up(member, end, running.request))
        elif group.attempts == MAX_ATTEMPTS - 1:
            self.queue.extend(Group([m], group.attempts, group.avoid) for m in group.members)
        else:
            self.queue.appendleft(group)

    def _count_death(self, slot: Slot, attempts: int) -> None:
        """Retires a slot where processes keep dying, such as that of a lost GPU."""
        self.deaths[slot.name] = self.deaths[slot.name] + 1 if attempts else 0
        if self.deaths[slot.name] >= SLOT_DEATHS and self.slots > 1:
            self.free.remove(slot)
            self.slots -= 1
            self.say(f"{slot.name}: no longer used, {SLOT_DEATHS} processes died in a row")

    def _has_failed_enough(self) -> bool:
        if self.fail_fast is None or not self.reasons:
            return False
        reason, count = self.reasons.most_common(1)[0]
        if count >= self.fail_fast:
            self.queue.clear()
            self.held.clear()
            failed = plural(count, "run")
            self.say(f"stopping (fail_fast={self.fail_fast}): {failed} failed with: {reason}")
        return count >= self.fail_fast

    def _stop_workers(self) -> None:
        for running in self.running:
            running.worker.stop()
        while self.running:
            for running in list(self.running):
                ended = running.worker.poll() is not None
                self._read(running)
                if ended:
                    self.running.remove(running)
            time.sleep(self.executor.interval)


def _describe(members: Sequence[Member]) -> str:
    names = ", ".join(member.name for member in members)
    return names if len(members) == 1 else f"{plural(len(members), 'run')} ({names})"


def _given_up(member: Member, end: str, request: Path) -> RunStatus:
    log = request.with_suffix(".log")
    output = Tail(log).lines()
    reason = f"its process died {MAX_ATTEMPTS} times without progress, the last time with {end}"
    if output:
        reason += f"; last output: {output[-1]}"
    return RunStatus(member.key, FAILED, GaveUpError.exit_code, reason, log=str(log))
