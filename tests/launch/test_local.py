"""The threads of a run are the same by itself and in a sweep."""

import pytest

from kdbench.launch import local
from kdbench.launch.local import LocalExecutor
from kdbench.machine import thread_variables, wanted_threads


@pytest.mark.parametrize(
    ("variable", "asked", "found"),
    [
        (None, None, None),
        ("3", None, 3),
        ("3", 2, 2),
        ("4,2", None, 4),
        ("", None, None),
        ("0", None, None),
        ("many", None, None),
    ],
)
def test_wanted_threads(monkeypatch, variable, asked, found):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert wanted_threads(asked) == found
    if asked is None:
        assert thread_variables(8) == {"OMP_NUM_THREADS": str(found or 8)}


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: set(range(8)))
    return LocalExecutor(None, 1, None)


def threads(slots):
    return [slot.environment["OMP_NUM_THREADS"] for slot in slots]


def test_a_slot_has_the_threads_of_the_environment(eight_cores, monkeypatch):
    assert threads(eight_cores.slots("cpu", None)) == ["8"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(eight_cores.slots("cpu", None)) == ["2"] * 4
    assert len(eight_cores.slots("cpu", 4)) == 2  # run.threads wins, in the worker


def test_slots_share_the_cores_by_default(eight_cores):
    assert threads(LocalExecutor(None, 1, 4).slots("cpu", None)) == ["2"] * 4
    assert threads(LocalExecutor([0, 1], 1, None).slots("auto", None)) == ["4"] * 2
