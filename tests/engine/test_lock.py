import multiprocessing
import re
import threading

import pytest

from kdbench.engine.lock import is_held, run_lock
from kdbench.errors import LockedError


def hold(folder, pipe):
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


def test_the_second_names_the_first(tmp_path, holder):
    expected = re.escape(f"process {holder.pid} on ")
    with pytest.raises(LockedError, match=rf"{expected}\S+ since 20"), run_lock(tmp_path):
        pass


def test_a_dead_holder_holds_nothing(tmp_path, holder):
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
