import errno
import json
import multiprocessing
import os
import re
import threading

import pytest

from kdbench.errors import LockedError, ResourceError
from kdbench.records import lock
from kdbench.records.lock import OWNER, StaleLockError, is_held, run_lock


def without_flock(number=errno.ENOSYS):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    return flock


def hold(folder, pipe, has_flock=True):
    if not has_flock:
        lock.fcntl.flock = without_flock()
    with run_lock(folder):
        pipe.send("held")
        pipe.recv()


@pytest.fixture
def holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    pipe.poll(None)
    yield process
    process.kill()
    process.join()


def test_the_error_names_the_holder(tmp_path, holder):
    expected = re.escape(f"process {holder.pid} on ")
    with pytest.raises(LockedError, match=rf"{expected}\S+ since 20"), run_lock(tmp_path):
        pass


def test_a_dead_holder_does_not_block(tmp_path, holder):
    holder.kill()
    holder.join()
    with run_lock(tmp_path):
        pass


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    with run_lock(tmp_path), pytest.raises(LockedError), run_lock(tmp_path):
        pass


def test_waiting_ends_when_the_holder_is_gone(tmp_path, holder):
    threading.Timer(0.3, holder.kill).start()
    with run_lock(tmp_path, patience=60):
        pass


def test_a_folder_is_held_as_long_as_its_process_lives(tmp_path, holder):
    assert is_held(tmp_path)
    holder.kill()
    holder.join()
    assert not is_held(tmp_path)
    assert not is_held(tmp_path / "never")


@pytest.fixture
def no_flock(monkeypatch):
    monkeypatch.setattr(lock.fcntl, "flock", without_flock())


@pytest.fixture
def holder_without_flock(tmp_path):
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs, False))
    process.start()
    pipe.recv()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_there_is_still_one_holder(tmp_path, monkeypatch, number):
    monkeypatch.setattr(lock.fcntl, "flock", without_flock(number))
    with run_lock(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "), run_lock(tmp_path):
            pass
    assert not is_held(tmp_path)
    with run_lock(tmp_path):
        pass
    assert not (tmp_path / OWNER).exists()


def test_without_flock_a_dead_holder_of_this_host_does_not_block(
    tmp_path, no_flock, holder_without_flock
):
    with pytest.raises(LockedError, match=f"process {holder_without_flock.pid} "):
        run_lock(tmp_path).__enter__()
    assert is_held(tmp_path)
    holder_without_flock.kill()
    holder_without_flock.join()
    assert not is_held(tmp_path)
    with run_lock(tmp_path):
        assert is_held(tmp_path)


def test_a_holder_with_flock_respects_one_without(tmp_path, holder_without_flock):
    with pytest.raises(LockedError, match=f"process {holder_without_flock.pid} "):
        run_lock(tmp_path).__enter__()


def leave(folder, age, **changes):
    """The owner file of a process on another host, with a last heartbeat of that age."""
    owner = {"pid": 7, "host": "node9", "since": "2026-11-20T10:00:00+00:00", "begun": 5}
    (folder / OWNER).write_text(json.dumps({**owner, "token": "t", **changes}))
    last = (folder / OWNER).stat().st_mtime - age
    os.utime(folder / OWNER, (last, last))


def test_a_stale_holder_on_another_host_is_reported_with_age_and_remedy(tmp_path, no_flock):
    leave(tmp_path, age=7200)
    said = r"process 7 on node9 since 2026-11-20.* 2:00:0\d ago.*remove \S+run\.owner\.json"
    with pytest.raises(StaleLockError, match=said):
        run_lock(tmp_path, patience=float("inf")).__enter__()  # does not wait forever
    assert not is_held(tmp_path)
    (tmp_path / OWNER).unlink()  # the remedy
    with run_lock(tmp_path):
        pass


def test_a_live_holder_on_another_host_is_respected_with_and_without_flock(tmp_path, monkeypatch):
    leave(tmp_path, age=5)
    with pytest.raises(LockedError, match=r"7 on node9 .*last heartbeat 0:00:0\d ago"):
        run_lock(tmp_path).__enter__()
    assert is_held(tmp_path)
    monkeypatch.setattr(lock.fcntl, "flock", without_flock())
    with pytest.raises(LockedError, match="7 on node9"):
        run_lock(tmp_path).__enter__()


def test_with_flock_a_silent_holder_on_another_host_does_not_block(tmp_path):
    leave(tmp_path, age=lock.STALE + 5)
    assert not is_held(tmp_path)
    with run_lock(tmp_path):
        pass


def test_a_holder_has_a_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    beats = threading.Event()
    monkeypatch.setattr(lock.os, "utime", lambda path, **options: beats.set())
    with run_lock(tmp_path):
        beats.clear()
        assert beats.wait()


def test_only_one_process_takes_over_from_a_dead_holder(tmp_path, no_flock):
    """Threads instead of processes: the socket treats them alike."""
    leave(tmp_path, age=0, host=lock.socket.gethostname(), pid=2**22 + 1, begun=1)
    gate, taken = threading.Barrier(8), []

    def compete():
        gate.wait()
        try:
            lock._acquire(tmp_path)
            taken.append(1)
        except LockedError:
            pass

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_an_obstacle_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, said in [
        ("file", "file is a file, but"),
        ("file/below", "file is a file, but"),
        ("dangling", "dangling is a link to .*nowhere"),
        ("loop", "loop is a link to"),
    ]:
        with pytest.raises(ResourceError, match=said):
            run_lock(tmp_path / name).__enter__()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "file")
    with pytest.raises(ResourceError, match=r"run\.lock is a link"):
        run_lock(tmp_path / "run").__enter__()
    (tmp_path / "run" / "run.lock").unlink()


def test_a_removed_owner_file_leaves_the_folder_to_its_new_owner(tmp_path, no_flock):
    with run_lock(tmp_path):
        leave(tmp_path, age=0)
    assert json.loads((tmp_path / OWNER).read_text())["host"] == "node9"
