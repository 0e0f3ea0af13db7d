"""The queue of a sweep, with fake workers."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.errors import Preempted
from kdbench.launch import scheduler as scheduler_module
from kdbench.launch.executor import Slot
from kdbench.launch.group import (
    DONE,
    FAILED,
    HELD,
    RETURNED,
    Group,
    Member,
    RunStatus,
    read_request,
    write_request,
)
from kdbench.launch.group import report as tell
from kdbench.launch.scheduler import Scheduler
from tests.records.test_record import make_record


class Fake:
    """An executor whose workers do what ``script(members, slot, start)`` says.

    It returns the exit code after it has told outcomes; None stays running until it is stopped.
    """

    interval = 0.0

    def __init__(self, script):
        self.script, self.started, self.running, self.most = script, [], 0, 0

    def start(self, request, slot):
        members, share = read_request(request)
        assert share == slot.share
        self.started.append((slot.name, [member.name for member in members]))
        self.running += 1
        self.most = max(self.most, self.running)
        return FakeWorker(self, request, members, slot)


class FakeWorker:
    def __init__(self, executor, request, members, slot):
        self.executor, self.begun = executor, len(executor.started)
        self.arguments, self.code, self.looks = (request, members, slot), None, 0

    def poll(self):
        self.looks += 1
        if self.code is None and self.looks > 1:
            code = self.executor.script(*self.arguments, self.begun)
            if code is not None:
                self.end(code)
        return self.code

    def end(self, code):
        self.code = code
        self.executor.running -= 1

    def stop(self):
        if self.code is None:
            self.end(75)

    kill = stop


def train(request, members, slot, begun):
    for member in members:
        tell(request, RunStatus(member.key, DONE, top1=50.0))
    return 0


def make_members(tmp_path, *names):
    return [Member(name, f"key-{name}", str(tmp_path / "runs" / name), {}) for name in names]


def save(member, step):
    folder = Path(member.folder) / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"step{step:08d}.json").write_text("{}")


def run(tmp_path, executor, groups, slots=("cpu",), fail_fast=None, on_start=lambda member: None):
    """The outcome of each run by name, and what was said."""
    outcomes, said = {}, []
    scheduler = Scheduler(
        executor,
        [Slot(name) for name in slots],
        tmp_path / "sweep",
        said.append,
        on_start,
        lambda outcome: outcomes.setdefault(outcome.key.removeprefix("key-"), outcome),
        fail_fast,
    )
    scheduler.run([Group(members) for members in groups])
    return outcomes, said


def test_groups_wait_for_a_free_slot_and_an_idle_slot_takes_the_next(tmp_path):
    executor = Fake(train)
    groups = [make_members(tmp_path, f"a{k}", f"b{k}") for k in range(5)]
    outcomes, _ = run(tmp_path, executor, groups, slots=("gpu 0", "gpu 1"))
    assert {outcome.status for outcome in outcomes.values()} == {DONE}
    assert len(outcomes) == 10
    assert executor.most == 2
    assert {slot for slot, _ in executor.started} == {"gpu 0", "gpu 1"}


def test_a_killed_worker_is_replaced_and_only_unfinished_runs_are_retried(tmp_path):
    def script(request, members, slot, begun):
        if begun == 1:
            tell(request, RunStatus(members[0].key, DONE))
            return -9
        return train(request, members, slot, begun)

    executor = Fake(script)
    outcomes, said = run(tmp_path, executor, [make_members(tmp_path, "a", "b", "c")])
    assert [names for _, names in executor.started] == [["a", "b", "c"], ["b", "c"]]
    assert {outcome.status for outcome in outcomes.values()} == {DONE}
    assert any("signal 9" in line for line in said)


def test_a_run_that_kills_its_process_is_given_up_and_the_others_finish(tmp_path):
    def script(request, members, slot, begun):
        if any(member.name == "bad" for member in members):
            return -11
        return train(request, members, slot, begun)

    executor = Fake(script)
    outcomes, _ = run(tmp_path, executor, [make_members(tmp_path, "a", "bad", "c")])
    assert (outcomes["a"].status, outcomes["c"].status) == (DONE, DONE)
    assert (outcomes["bad"].status, outcomes["bad"].exit_code) == (FAILED, 8)
    assert "3 times without progress, the last time with signal 11" in outcomes["bad"].reason
    assert outcomes["bad"].log.endswith(".log")
    assert [names for _, names in executor.started].count(["a", "bad", "c"]) == 2


def test_restarts_with_progress_are_not_limited(tmp_path):
    member = make_members(tmp_path, "slow")[0]

    def script(request, members, slot, begun):
        if begun < 8:
            save(member, begun)  # preempted again and again, but further each time
            return 75
        return train(request, members, slot, begun)

    outcomes, _ = run(tmp_path, Fake(script), [[member]])
    assert outcomes["slow"].status == DONE


def test_a_gpu_where_every_process_dies_is_no_longer_used(tmp_path):
    def script(request, members, slot, begun):
        return -9 if slot.name == "gpu 1" else train(request, members, slot, begun)

    executor = Fake(script)
    groups = [make_members(tmp_path, f"a{k}", f"b{k}") for k in range(6)]
    outcomes, said = run(tmp_path, executor, groups, slots=("gpu 0", "gpu 1"))
    assert [outcome.status for outcome in outcomes.values()] == [DONE] * 12
    assert [slot for slot, _ in executor.started].count("gpu 1") == 2
    assert any("gpu 1: no longer used" in line for line in said)


def test_runs_that_do_not_fit_in_memory_are_requeued(tmp_path):
    def script(request, members, slot, begun):
        for member in members[2:]:
            tell(request, RunStatus(member.key, RETURNED))
        return train(request, members[:2], slot, begun)

    executor = Fake(script)
    outcomes, _ = run(tmp_path, executor, [make_members(tmp_path, *"abcde")])
    assert [len(names) for _, names in executor.started] == [5, 3, 1]
    assert len(outcomes) == 5


def test_a_group_of_which_nothing_fits_is_halved(tmp_path):
    def script(request, members, slot, begun):
        if len(members) > 2:  # the teacher, or the evaluation of all, has no room
            for member in members:
                tell(request, RunStatus(member.key, RETURNED))
            return 0
        return train(request, members, slot, begun)

    executor = Fake(script)
    outcomes, _ = run(tmp_path, executor, [make_members(tmp_path, *"abcdefg")])
    assert [len(names) for _, names in executor.started] == [7, 4, 2, 2, 3, 2, 1]
    assert {outcome.status for outcome in outcomes.values()} == {DONE}


def test_an_unusable_folder_does_not_stop_the_other_runs(tmp_path):
    def on_start(member):
        if member.name in ("b", "only"):
            return RunStatus(member.key, FAILED, 6, "b is a file")
        return None

    executor = Fake(train)
    groups = [make_members(tmp_path, *names) for names in (["only"], ["a", "b", "c"])]
    outcomes, _ = run(tmp_path, executor, groups, on_start=on_start)
    assert [names for _, names in executor.started] == [["a", "c"]]
    assert {name: outcome.exit_code for name, outcome in outcomes.items()} == {
        "only": 6,
        "a": 0,
        "b": 6,
        "c": 0,
    }


def test_the_queue_waits_for_runs_of_other_processes(tmp_path, monkeypatch):
    looks = iter([True, True, False])
    monkeypatch.setattr(scheduler_module, "HELD_INTERVAL", 0.0)
    monkeypatch.setattr(scheduler_module, "is_held", lambda folder: next(looks))

    def script(request, members, slot, begun):
        if begun == 1:
            tell(request, RunStatus(members[0].key, HELD, reason="in use by process 7"))
            tell(request, RunStatus(members[1].key, DONE))
            return 0
        return train(request, members, slot, begun)

    executor = Fake(script)
    outcomes, said = run(tmp_path, executor, [make_members(tmp_path, "theirs", "mine")])
    assert [names for _, names in executor.started] == [["theirs", "mine"], ["theirs"]]
    assert {outcome.status for outcome in outcomes.values()} == {DONE}
    assert "waiting for theirs: in use by process 7" in said
    assert next(looks, "looked until it was free") == "looked until it was free"


def test_saved_steps_of_a_failed_run_come_from_its_checkpoints(tmp_path):
    member = make_members(tmp_path, "again")[0]
    Path(member.folder).mkdir(parents=True)
    (Path(member.folder) / "record.json").write_text('{"status": "failed"}')
    assert member.steps() == 0
    save(member, 7)
    assert member.steps() == 7


def test_fail_fast_counts_failures_with_the_same_reason(tmp_path):
    def script(request, members, slot, begun):
        reason = "no data" if begun % 2 else f"ce not finite at step {begun}"
        tell(request, RunStatus(members[0].key, FAILED, 5, reason))
        return 0

    groups = [make_members(tmp_path, f"run{k}") for k in range(9)]
    outcomes, said = run(tmp_path, Fake(script), groups, fail_fast=3)
    assert len(outcomes) == 5
    assert any("fail_fast=3" in line for line in said)
    outcomes, _ = run(tmp_path / "again", Fake(script), groups)
    assert len(outcomes) == 9


def test_a_signal_stops_the_workers_and_is_reported(tmp_path):
    def script(request, members, slot, begun):
        os.kill(os.getpid(), signal.SIGINT)

    executor = Fake(script)
    groups = [make_members(tmp_path, "a"), make_members(tmp_path, "b")]
    with pytest.raises(Preempted, match="stopped by SIGINT"):
        run(tmp_path, executor, groups)
    assert executor.running == 0
    assert len(executor.started) == 1


def test_output_of_a_worker_is_forwarded_with_its_slot(tmp_path):
    def script(request, members, slot, begun):
        request.with_suffix(".log").write_text("epoch 1/3\nhalf a li")
        return train(request, members, slot, begun)

    groups = [make_members(tmp_path, "a")]
    _, said = run(tmp_path, Fake(script), groups, slots=("gpu 0", "gpu 1"))
    assert "[gpu 0] epoch 1/3" in said
    assert not any("half" in line for line in said)


def test_a_request_survives_the_file(tmp_path):
    member = Member("ä", "k", "f", {"run": {"epochs": 3, "threads": None}, "x": [1.5, "y"]})
    path = tmp_path / "request.json"
    write_request(path, [member], 0.5)
    assert read_request(path) == ([member], 0.5)
    tell(path, RunStatus(member.key, DONE))
    assert read_request(path)[0] == []  # on a restart, runs with an outcome are skipped


def finish(folder):
    """Marks a run as done."""
    Path(folder).mkdir(parents=True)
    make_record(status="done").write(Path(folder))


def test_a_teacher_that_two_groups_need_is_trained_by_one_of_them(tmp_path):
    first, second, other = (str(tmp_path / "teachers" / name) for name in ("t110", "t20", "t56"))
    chains = {"a": (second, first), "b": (first,), "c": (other,)}  # b needs what a trains first

    def script(request, members, slot, begun):
        (member,) = members
        if member.name == "a" and not Path(first).exists():
            assert "b" not in [name for _, names in executor.started for name in names]
            finish(first)
            return None  # it continues with its second stage
        return train(request, members, slot, begun)

    executor = Fake(script)
    groups = [
        [replace(member, stages=chains[member.name])]
        for member in make_members(tmp_path, "a", "b", "c")
    ]
    outcomes, said = run(tmp_path, executor, groups, slots=("gpu 0", "gpu 1"))
    assert [names for _, names in executor.started] == [["a"], ["c"], ["b"]]
    assert {outcome.status for outcome in outcomes.values()} == {DONE}
    assert [line for line in said if "being trained" in line] == [
        "waiting for a teacher that is being trained: b"
    ]
