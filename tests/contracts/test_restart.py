"""Killed at any moment, a run that is started again ends as if nothing had happened."""

import os
import re
import shutil
import signal
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from kdbench.digest import state_digest
from kdbench.records.record import read_record
from tests.helpers.harness import STATEFUL, result, run, start
from tests.helpers.paths import ROOT
from tests.helpers.waiting import wait_for

KILLED = -signal.SIGKILL


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("uninterrupted")
    assert run(outputs, STATEFUL) == 0
    return result(outputs)


# 3 epochs of 5 steps, a teacher of 1 epoch before them (its steps and writes count too).
POINTS = [
    "step:3",  # the teacher in the middle of its epoch
    "teacher:ready:1",
    "step:8",  # the student in the middle of its first epoch
    "epoch:trained:2",
    "epoch:measured:3",
    "checkpoint:begin:2",
    "write:half:8",
    "write:synced:9",
    "checkpoint:uncommitted:3",
    "checkpoint:rotating:1",
    "record:begin:2",
    "record:written:2",
]
MORE = ["checkpoint:committed:3", "epoch:committed:3"]
MORE += [f"step:{n}" for n in (1, 5, 6, 7, 10, 11, 15, 17, 20)]
MORE += [f"write:{part}:{n}" for part in ("half", "synced") for n in range(1, 28, 3)]
EVERY = [*POINTS, *(pytest.param(point, marks=pytest.mark.slow) for point in MORE)]


@pytest.mark.parametrize("point", EVERY)
def test_killed_and_started_again(tmp_path, uninterrupted, point):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT=point) == KILLED, "the point was not reached"
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted
    assert not list((tmp_path / "run").rglob(".*.tmp"))


def test_every_point_of_the_package_is_tried():
    source = "".join(path.read_text() for path in (ROOT / "kdbench").rglob("*.py"))
    named = set(re.findall(r'fault\.point\("([a-z:]+)"\)', source))
    assert named == {point.rsplit(":", 1)[0] for point in [*POINTS, *MORE]}


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, uninterrupted):
    for point in ("step:2", "checkpoint:uncommitted:2", "epoch:measured:2"):
        assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT=point) == KILLED
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_the_best_weights_come_back_from_the_checkpoint(tmp_path, damage):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:13") == KILLED
    best = tmp_path / "run/checkpoint/best.safetensors"
    before = best.read_bytes()
    if damage == "changed":
        best.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    else:
        best.unlink()
    # Killed before another epoch ends, which could be a better one.
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="epoch:trained:1") == KILLED
    assert best.read_bytes() == before
    assert "restored from the checkpoint" in (tmp_path / "stderr.txt").read_text()


STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_and_exits_75(tmp_path, number):
    long = [*STATEFUL, "run.epochs=6"]
    process = start(tmp_path / "stopped", long, HOLD_AT="epoch 3/")
    saved = tmp_path / "stopped" / "run" / "checkpoint"
    wait_for(lambda: list(saved.glob("step*.json")), process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 75
    said = (tmp_path / "stopped" / "stderr.txt").read_text()
    assert f"stopped by {number.name}; saved" in said
    assert not (tmp_path / "stopped" / "run" / "record.json").exists()
    if number == signal.SIGTERM:
        assert run(tmp_path / "stopped", long) == run(tmp_path / "whole", long) == 0
        assert result(tmp_path / "stopped") == result(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_costs_an_epoch_and_no_more(tmp_path, uninterrupted, damage):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:18") == KILLED
    newest = max((tmp_path / "run" / "checkpoint").glob("step*.pt"))
    content = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        newest.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted
    assert (tmp_path / "run" / "checkpoint" / "damaged").is_dir()


def test_all_checkpoints_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:18") == KILLED
    for path in (tmp_path / "run" / "checkpoint").glob("step*.pt"):
        path.write_bytes(b"damaged")
    assert run(tmp_path, STATEFUL) == 4
    assert "all checkpoints in" in (tmp_path / "stderr.txt").read_text()


def test_a_run_does_not_continue_in_the_folder_of_another(tmp_path):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:12") == KILLED
    assert run(tmp_path, [*STATEFUL, "seed=1", "optim.lr=0.01"]) == 2
    said = (tmp_path / "stderr.txt").read_text()
    assert "holds another run" in said
    assert "optim.lr: 0.05 there, 0.01 here" in said


def change_teacher(outputs):
    """Other weights in the folder of the teacher; returns their digest."""
    folder = next((outputs / "teachers").rglob("record.json")).parent
    weights = load_file(folder / "student.safetensors")
    weights["fc.bias"] += 1
    save_file(weights, folder / "student.safetensors", {"top1": "0.0"})
    return folder, state_digest(weights)


def test_a_damaged_teacher_is_noticed(tmp_path):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:12") == KILLED
    _, digest = change_teacher(tmp_path)
    assert run(tmp_path, STATEFUL) == 4
    assert f"found {digest}" in (tmp_path / "stderr.txt").read_text()


def test_a_run_does_not_continue_with_another_teacher(tmp_path):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:12") == KILLED
    folder, digest = change_teacher(tmp_path)
    replace(read_record(folder), weights_digest=digest).write(folder)
    assert run(tmp_path, STATEFUL) == 4
    assert "was started with another teacher" in (tmp_path / "stderr.txt").read_text()


def test_a_teacher_that_was_removed_is_trained_again_bit_by_bit(tmp_path, uninterrupted):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:12") == KILLED
    shutil.rmtree(tmp_path / "teachers")
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted


def test_two_runs_that_need_one_teacher_train_it_once(tmp_path):
    teachers = f"paths.teachers={tmp_path}/teachers"
    processes = [
        start(tmp_path / name, [*STATEFUL, teachers, f"seed={seed}", "teacher.epochs=30"])
        for seed, name in enumerate(("first", "second"))
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (path,) = (tmp_path / "teachers").rglob("record.json")
    assert read_record(path.parent).attempts == 1
    digests = {read_record(tmp_path / name / "run").teacher_digest for name in ("first", "second")}
    assert digests == {read_record(path.parent).weights_digest}


def test_the_same_run_twice_at_once(tmp_path):
    first = start(tmp_path, STATEFUL, HOLD_AT="epoch 2/")
    wait_for((tmp_path / "run" / "run.owner.json").exists, first)
    assert run(tmp_path, STATEFUL) == 7
    assert f"process {first.pid} on " in (tmp_path / "stderr.txt").read_text()
    assert first.is_alive()
    first.kill()
    first.join()


def test_what_nohup_ignores_stays_ignored():
    from kdbench.engine.signals import StopSignals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_damage_is_no_word_to_start_from_zero(tmp_path, uninterrupted):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:17") == KILLED
    payloads = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoint").glob("step*.pt")}
    for path in payloads:
        path.write_bytes(b"")
    assert [run(tmp_path, STATEFUL) for _ in range(3)] == [4, 4, 4]
    for path, content in payloads.items():  # a sound copy comes back
        path.write_bytes(content)
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted


def test_without_its_checkpoints_a_run_begins_again(tmp_path, uninterrupted):
    assert run(tmp_path, STATEFUL, KDBENCH_KILL_AT="step:17") == KILLED
    shutil.rmtree(tmp_path / "run" / "checkpoint")  # the user's word
    assert run(tmp_path, STATEFUL) == 0
    assert result(tmp_path) == uninterrupted


CHAIN = [*STATEFUL, "teacher=resnet14", "teacher.recipe=[method=kd,teacher=resnet8,seed=4]"]


@pytest.fixture(scope="module")
def uninterrupted_chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    assert run(folder, CHAIN) == 0
    return stages(folder), result(folder)


def stages(outputs):
    """The runs that trained the teachers of a chain: folder, and what they came to."""
    folders = (path.parent for path in (outputs / "teachers").rglob("record.json"))
    records = {folder.name: read_record(folder) for folder in folders}
    return {name: (r.weights_digest, r.teacher_digest, r.role) for name, r in records.items()}


# A teacher of two epochs of five steps, an assistant of one epoch, a student of three.
@pytest.mark.parametrize("point", ["step:4", "step:12", "step:18", "record:begin:2"])
def test_a_chain_goes_on_from_any_stage_bit_by_bit(tmp_path, uninterrupted_chain, point):
    assert run(tmp_path, CHAIN, KDBENCH_KILL_AT=point) == KILLED
    assert not (tmp_path / "run" / "record.json").exists()
    assert run(tmp_path, CHAIN) == 0
    assert (stages(tmp_path), result(tmp_path)) == uninterrupted_chain


def test_the_stages_of_a_chain_are_runs_of_their_own(uninterrupted_chain):
    found, last = uninterrupted_chain
    first, second = sorted(found)  # resnet8-..., resnet8_resnet14-...
    assert second.startswith("resnet8_resnet14-")
    assert found[second][1] == found[first][0]
    assert last["record"]["teacher_digest"] == found[second][0]
    assert {role for *_, role in found.values()} == {"teacher"}
    assert last["record"]["pair"] == "resnet8-kd-resnet14_net"
