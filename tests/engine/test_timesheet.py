"""Time accounting, with clocks that advance only when work is done."""

import contextlib

import pytest
import torch

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key
from kdbench.engine import timesheet
from kdbench.engine import trainer as trainer_module
from kdbench.engine.job import Job
from kdbench.engine.learner import Learner
from kdbench.engine.run import train_jobs
from kdbench.engine.timesheet import CudaClock, TimeSheet, make_clock, summarise_time
from kdbench.records.rows import read_metrics
from kdbench.teacher.teacher import Teacher
from tests.helpers.harness import TINY
from tests.helpers.records import CIRCUMSTANCES


class Clock:
    """A clock set by the test."""

    def __init__(self):
        self.now = 0.0

    def mark(self):
        return self.now

    def has_passed(self, mark):
        return True

    def seconds(self, begin, end):
        return end - begin


def test_every_moment_is_charged_once():
    clock = Clock()
    sheet = TimeSheet(clock)
    clock.now = 7  # before anything begins: not charged
    with sheet.charge("data", "ab"):
        clock.now += 1
        with sheet.charge("teacher", "a"):
            clock.now += 10
        with sheet.charge("step", "b"):
            clock.now += 100
        clock.now += 1
    clock.now += 1000
    a, b = sheet.read("a"), sheet.read("b")
    assert (a["data"], a["teacher"], a["step"], a["part"]) == (2, 10, 0, 11)
    assert (b["data"], b["teacher"], b["step"], b["part"]) == (2, 0, 100, 101)
    assert a["seconds"] == b["seconds"] == a["part"] + b["part"] == 112
    assert summarise_time(b)["own_seconds"] == 100
    assert summarise_time(b)["shared_seconds"] == 2


def test_take_resets_and_earlier_time_is_added():
    clock = Clock()
    sheet = TimeSheet(clock)
    sheet.add("a", {"step": 5.0, "part": 5.0, "seconds": 6.0})
    for seconds in (1, 2):
        with sheet.charge("step", "a"):
            clock.now += seconds
        if seconds == 1:
            taken = sheet.take("a")
            assert (taken["step"], taken["seconds"]) == (6, 7)
    assert sheet.take("a")["step"] == 2
    assert sheet.take("a")["step"] == 0


def test_an_error_ends_the_work_it_happened_in():
    clock = Clock()
    sheet = TimeSheet(clock)
    with sheet.charge("data", "ab"):
        with contextlib.suppress(ValueError), sheet.charge("step", "a"):
            clock.now += 1
            raise ValueError
        clock.now += 4
    assert sheet.read("a")["step"] == 1
    assert sheet.read("b")["data"] == 4


class Event:
    """A fake torch.cuda.Event."""

    made, waits = [], 0
    device_time = 0.0

    def __init__(self, enable_timing):
        assert enable_timing
        self.done = False
        Event.made.append(self)

    def record(self, stream):
        self.time = Event.device_time

    def query(self):
        return self.done

    def synchronize(self):
        Event.waits += 1
        self.done = True

    def elapsed_time(self, end):
        assert end.done
        return 1000 * (end.time - self.time)


def test_on_a_gpu_nothing_synchronizes_before_it_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(timesheet, "_MANY", 6)
    monkeypatch.setattr(Event, "made", [])
    monkeypatch.setattr(Event, "waits", 0)
    clock = make_clock(torch.device("cuda"))
    assert isinstance(clock, CudaClock)
    sheet = TimeSheet(clock)
    for step in range(50):
        with sheet.charge("data", "ab"):
            with sheet.charge("step", "a"):
                Event.device_time += 3  # device time; the host continues immediately
            with sheet.charge("step", "b"):
                Event.device_time += 1
        assert Event.waits == 0
        if step == 30:
            for event in Event.made:
                event.done = True
    # Completed events have been counted and released without waiting.
    assert len(sheet._marked) < 5 * 25
    Event.waits = 0
    assert sheet.read("a")["step"] == 150
    assert sheet.read("b")["step"] == 50
    assert sheet.read("a")["seconds"] == 200


@pytest.fixture
def clock(monkeypatch):
    """A teacher query takes 8 seconds, a step 2, and 4 with tau=2, an evaluated batch 1."""
    clock = Clock()
    monkeypatch.setattr(trainer_module, "make_clock", lambda device: clock)

    def slow(owner, name, seconds):
        method = getattr(owner, name)

        def slower(self, *args, **kwargs):
            clock.now += seconds(self)
            return method(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, slower)

    def step(learner):
        found = [getattr(module, "tau", None) for module in learner.objective.modules()]
        return 4 if 2 in found else 2

    slow(Teacher, "query", lambda teacher: 8)
    slow(Learner, "train_step", step)
    slow(Learner, "predict", lambda learner: 1)
    before = torch.get_num_threads()
    yield clock
    torch.set_num_threads(before)


def job(outputs, name, *overrides):
    cfg = compose_config([*TINY, f"paths.outputs={outputs}", *overrides])
    return Job(cfg, outputs / name, run_key(cfg))


COHORT = (["temperature.tau=4"], ["temperature.tau=2"], ["method=scratch"])


def train(folder, clock):
    train_jobs([job(folder, "first")])  # trains the teacher
    before = clock.now
    jobs = [job(folder, f"run{n}", *overrides) for n, overrides in enumerate(COHORT)]
    return jobs, before


def test_a_cohort_adds_up_and_its_rows_differ(tmp_path, clock):
    jobs, before = train(tmp_path, clock)
    records = [outcome.record for outcome in train_jobs(jobs)]
    wall = clock.now - before
    steps, epochs = 5, 3
    assert [record.teacher_seconds for record in records] == [8 * steps * epochs] * 2 + [0]
    evaluated = records[0].evaluation_seconds
    assert 0 < evaluated == records[2].evaluation_seconds
    assert [record.own_seconds - evaluated for record in records] == [30, 60, 30]
    assert [record.seconds for record in records] == [wall] * 3
    assert sum(record.part_seconds for record in records) == wall
    assert sum(record.spent_seconds for record in records) == wall
    alone = [outcome.record for outcome in train_jobs([job(tmp_path, "x", "temperature.tau=2")])]
    assert alone[0].seconds == alone[0].alone_seconds == records[1].alone_seconds
    assert records[2].alone_seconds == records[2].own_seconds
    timings = read_metrics(tmp_path / "run1" / "timings.csv")
    assert [row["perf/teacher_share"] for row in timings] == [8 / 12] * 3
    assert [row["perf/images_per_s"] for row in timings] == [40 / 60] * 3
    assert {"own_seconds", "shared_seconds", "part_seconds", "seconds"} <= set(CIRCUMSTANCES)


def test_attempts_add_up(tmp_path, clock, monkeypatch):
    jobs, _ = train(tmp_path, clock)
    whole = [outcome.record for outcome in train_jobs(jobs)]
    count = 0

    def stop(name):
        nonlocal count
        count += name == "step"
        if count == 8:  # in the second epoch, and saved
            signals[-1].requested = "SIGTERM"

    signals = []
    enter = trainer_module.StopSignals.__enter__
    monkeypatch.setattr(
        trainer_module.StopSignals, "__enter__", lambda self: signals.append(self) or enter(self)
    )
    monkeypatch.setattr(trainer_module.fault, "point", stop)
    again = [job(tmp_path, f"again{n}", *overrides) for n, overrides in enumerate(COHORT)]
    with pytest.raises(trainer_module.Preempted):
        train_jobs(again)
    records = [outcome.record for outcome in train_jobs(again)]
    assert [record.attempts for record in records] == [2, 2, 2]
    for first, second in zip(whole, records, strict=True):
        for name in ("seconds", "own_seconds", "shared_seconds", "part_seconds"):
            assert getattr(second, name) == getattr(first, name)


def test_a_real_cohort_adds_up_to_the_elapsed_time(tmp_path):
    train_jobs([job(tmp_path, "first")])
    jobs = [job(tmp_path, f"run{n}", *overrides) for n, overrides in enumerate(COHORT)]
    records = [outcome.record for outcome in train_jobs(jobs)]
    assert sum(record.part_seconds for record in records) == pytest.approx(
        records[0].seconds, rel=0.1
    )
    assert all(0 < record.own_seconds < record.seconds for record in records)
    assert records[2].shared_seconds < records[0].shared_seconds
