"""How fast a machine is: measured once per network, remembered."""

import json

import pytest

import kdbench.model.compute
import kdbench.planning.speed
from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config
from kdbench.model.compute import choose_compute, describe_machine
from kdbench.planning.speed import FILE, Speed, Speeds, time_work


@pytest.fixture
def config(tmp_path):
    tiny = ["debug=smoke", "dataset.image_size=8", "run.device=cpu", "run.threads=1"]
    return resolve_config(compose_config([*tiny, f"paths.cache={tmp_path}"]))


@pytest.fixture
def speeds(config):
    notes = []
    found = Speeds(config, notes.append)
    found.notes = notes
    return found


def test_a_network_is_timed_once_per_machine(speeds, config, monkeypatch):
    found = speeds.of(config["student"])
    assert found.macs > 0
    assert found.train > 0
    assert found.forward > 0
    assert speeds.notes == ["timing resnet8 on this machine, once"]
    monkeypatch.setattr(kdbench.planning.speed, "measure", None)
    assert speeds.of(config["student"]) == found
    assert Speeds(config, print).of(config["student"]) == found


def test_another_machine_or_network_is_timed_anew(speeds, config, monkeypatch):
    monkeypatch.setattr(kdbench.planning.speed, "measure", lambda *_: Speed(1, 2.0, 3.0))
    speeds.of(config["student"])
    speeds.of({**config["student"], "image_size": 16})
    monkeypatch.setattr(kdbench.model.compute, "cpu_model", lambda: "another one")
    other = Speeds(config, speeds.notes.append)
    other.of(config["student"])
    assert len(speeds.notes) == 3
    kept = json.loads((other.path.parent / FILE).read_text())
    assert {len(networks) for networks in kept.values()} == {1, 2}


@pytest.mark.parametrize("content", ["", "{", "\xff"])
def test_a_damaged_file_is_measured_again(speeds, config, monkeypatch, content):
    speeds.path.parent.mkdir(parents=True, exist_ok=True)
    speeds.path.write_text(content)
    monkeypatch.setattr(kdbench.planning.speed, "measure", lambda *_: Speed(1, 2.0, 3.0))
    assert speeds.of(config["student"]) == Speed(1, 2.0, 3.0)
    assert json.loads(speeds.path.read_text())


def test_an_entry_in_an_older_format_is_measured_again(speeds, config, monkeypatch):
    name = json.dumps(config["student"], sort_keys=True)
    speeds.known[name] = {"macs": 1, "train": 2.0, "ask": 3.0}
    monkeypatch.setattr(kdbench.planning.speed, "measure", lambda *_: Speed(1, 2.0, 4.0))
    assert speeds.of(config["student"]) == Speed(1, 2.0, 4.0)


def test_the_first_time_does_not_count_and_of_the_others_the_shortest_does(monkeypatch):
    ticks = iter([0, 9, 10, 13, 20, 21, 30, 34])
    monkeypatch.setattr(kdbench.planning.speed.time, "perf_counter", lambda: next(ticks))
    done = []
    assert time_work(lambda: done.append(1), choose_compute("cpu", "fp32", True)) == 1
    assert len(done) == 4


def test_what_changes_the_speed_is_in_the_name_of_the_machine():
    names = {
        describe_machine(choose_compute("cpu", precision, channels_last), threads)
        for precision in ("fp32", "bf16")
        for channels_last in (True, False)
        for threads in (1, 2)
    }
    assert len(names) == 8
