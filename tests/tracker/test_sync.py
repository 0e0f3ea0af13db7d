import json
import subprocess
from pathlib import Path

import pytest

from kdbench.records.lock import run_lock
from kdbench.tracker.sync import OTHER_ID, find_pending, mark_superseded, sync, sync_arguments
from tests.helpers.waiting import next_second
from tests.helpers.wandb_child import follow, make_identity

LOSSES = (1.0, 0.5, 0.25, 0.125)
CURVE = list(enumerate(LOSSES))


def train_offline(folder, epochs, state=None, status="done"):
    return follow(folder, LOSSES[:epochs], state, status, mode="offline").state_dict()


def resume_offline(folder, epochs, state):
    next_second()
    return train_offline(folder, epochs, state)


def upload(outputs):
    attempts, busy = find_pending(outputs)
    assert not busy
    return len(attempts), sync(attempts, outputs)


def make_attempt(run, name):
    folder = run / "wandb" / name
    folder.mkdir(parents=True)
    (folder / f"run-{name.split('-', 3)[3]}.wandb").touch()
    return folder


def test_what_is_uploaded_once_is_not_uploaded_again(tmp_path, wandb_server):
    ids = [train_offline(tmp_path / name, 4)["run_id"] for name in "ab"]
    assert upload(tmp_path) == (2, [])
    assert sorted(wandb_server.runs) == sorted(ids)
    assert [wandb_server.curve(run_id) for run_id in ids] == [CURVE, CURVE]
    assert upload(tmp_path) == (0, [])
    for mark in tmp_path.rglob("*.synced"):  # somebody has cleaned up
        mark.unlink()
    assert upload(tmp_path) == (2, [])
    assert sorted(wandb_server.runs) == sorted(ids)
    assert [wandb_server.curve(run_id) for run_id in ids] == [CURVE, CURVE]


def test_a_run_of_two_attempts_is_one_curve(tmp_path, wandb_server):
    state = train_offline(tmp_path, 2, status="preempted")
    resume_offline(tmp_path, 4, state)
    assert upload(tmp_path) == (1, [])  # the first attempt is in the second
    assert wandb_server.curve(state["run_id"]) == CURVE


@pytest.mark.slow
def test_a_run_that_goes_on_after_an_upload_replaces_it(tmp_path, wandb_server):
    state = train_offline(tmp_path, 2, status="preempted")
    assert upload(tmp_path) == (1, [])
    assert wandb_server.curve(state["run_id"]) == CURVE[:2]
    resume_offline(tmp_path, 4, state)
    assert upload(tmp_path) == (1, [])
    assert wandb_server.curve(state["run_id"]) == CURVE


def test_a_run_that_is_being_trained_is_left_for_later(tmp_path):
    attempt = make_attempt(tmp_path, "offline-run-20260101_000000-abc")
    with run_lock(tmp_path):
        assert find_pending(tmp_path) == ([], [attempt])
    assert find_pending(tmp_path) == ([attempt], [])


def test_a_new_attempt_supersedes_the_older_ones_of_its_run_only(tmp_path):
    old = make_attempt(tmp_path / "a", "offline-run-20260101_000000-abc")
    new = make_attempt(tmp_path / "a", "offline-run-20260101_000001-abc")
    other = make_attempt(tmp_path / "b", "offline-run-20260101_000000-def")
    assert find_pending(tmp_path)[0] == [old, new, other]
    mark_superseded(new)
    assert find_pending(tmp_path)[0] == [new, other]


def test_an_attempt_under_another_id_is_sent_under_that_of_its_run():
    attempts = [Path("offline-run-20260101_000000-abc"), Path("offline-run-20260101_000000-def")]
    assert sync_arguments(attempts) == ["sync", *map(str, attempts)]
    other = Path(f"r/wandb/offline-run-20260101_000000-abc{OTHER_ID}")
    assert sync_arguments([other]) == ["sync", "--id=abc", str(other)]


def test_such_an_attempt_arrives(tmp_path, wandb_server):
    make_identity(tmp_path)
    tracker = follow(tmp_path, LOSSES, {"run_id": f"abc{OTHER_ID}"}, mode="offline")
    assert tracker.state_dict()["run_id"] == f"abc{OTHER_ID}"
    assert upload(tmp_path) == (1, [])
    assert wandb_server.curve("abc") == CURVE


def test_what_the_server_refuses_is_reported(tmp_path, wandb_server, monkeypatch):
    train_offline(tmp_path, 2)
    monkeypatch.setattr(
        wandb_server, "answer", lambda *_: json.loads('{"errors": [{"message": "no"}]}')
    )
    attempts, _ = find_pending(tmp_path)
    assert sync(attempts, tmp_path) == attempts


def test_one_that_cannot_be_read_does_not_keep_the_others_back(tmp_path, wandb_server):
    state = train_offline(tmp_path / "a", 4)
    empty = make_attempt(tmp_path / "b", "offline-run-20260101_000000-abc")
    assert upload(tmp_path) == (2, [empty])
    assert wandb_server.curve(state["run_id"]) == CURVE


def test_a_server_that_takes_nothing_is_not_tried_for_each_run(tmp_path, monkeypatch):
    attempts = [make_attempt(tmp_path / str(k), f"offline-run-1_2-{k}") for k in range(64)]
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command))
    assert sync(attempts, tmp_path) == attempts
    assert len(calls) < 20
