import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdbench.digest import safetensors_digest
from kdbench.errors import CheckpointError
from kdbench.records.record import WEIGHTS, RunRecord, find_finished, read_record


def make_record(**changes):
    names = "dataset pair student method temperature objective protocol precision"
    found = RunRecord(
        **{name: name for name in names.split()},
        run_key="k" * 64,
        status="done",
        reason=None,
        teacher="big",
        seed=0,
        epochs=3,
        epochs_done=3,
        top1_last=50.0,
        top1_best=60.0,
        val_top1_last=None,
        val_top1_best=None,
        test={"top1": 50.0, "agreement": 70.0},
        convergence={"aulc": 40.0, "epochs_to": {"50": 2}},
        teacher_top1=80.0,
        teacher_digest="t",
        dataset_digest="d",
        weights_digest="w",
        metrics_digest="m",
        parameters=10,
        config={"seed": 0},
        seconds=1.5,
        images_per_s=100.0,
        peak_memory_mb=1.0,
        attempts=1,
        cohort_size=1,
        teacher_memo=None,
        device="cpu",
        threads=1,
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00",
        command=[],
        environment={},
    )
    return replace(found, **changes)


def write_weights(folder, value=1.0):
    """Writes final weights beside a record; returns their digest."""
    state = {"layer.weight": np.full((2, 3), value, dtype=np.float32), "n": np.array(3)}
    save_file(state, folder / WEIGHTS)
    return safetensors_digest(folder / WEIGHTS)


@pytest.fixture
def record():
    return make_record()


def test_round_trip(record, tmp_path):
    record.write(tmp_path)
    assert read_record(tmp_path) == record


def test_numbers_are_flat_and_known():
    numbers = make_record(teacher_top1=None).numbers()
    assert (numbers["top1_last"], numbers["top1_best"]) == (50.0, 60.0)
    assert (numbers["test/agreement"], numbers["convergence/epochs_to_50"]) == (70.0, 2)
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert "teacher_top1" not in numbers


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("50.0", "95.0"),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "digest"}),
    ],
)
def test_damage_is_detected(record, tmp_path, change):
    record.write(tmp_path)
    path = tmp_path / "record.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(CheckpointError, match=r"record\.json is damaged"):
        read_record(tmp_path)
    assert find_finished(tmp_path, record.run_key) is None


def test_a_folder_does_not_make_a_run_finished(record, tmp_path):
    assert find_finished(tmp_path, record.run_key) is None
    record.write(tmp_path)
    assert find_finished(tmp_path, record.run_key) is None  # no weights
    record = replace(record, weights_digest=write_weights(tmp_path))
    record.write(tmp_path)
    assert find_finished(tmp_path, record.run_key) == record
    assert find_finished(tmp_path, "another") is None
    replace(record, status="failed", reason="x").write(tmp_path)
    assert find_finished(tmp_path, record.run_key) is None


def test_weights_that_differ_from_the_record_are_refused(record, tmp_path):
    record = replace(record, weights_digest=write_weights(tmp_path))
    record.write(tmp_path)
    path = tmp_path / WEIGHTS
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 1
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"damaged: its weights should have the digest .*put"):
        find_finished(tmp_path, record.run_key)
    for damaged in (b"", bytes(payload[:-5]), b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged: not a valid safetensors file.*put"):
            find_finished(tmp_path, record.run_key)
    path.unlink()
    assert find_finished(tmp_path, record.run_key) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 10**40},
        {"seed": "0"},
        {"seed": True},
        {"seed": 1.5},
        {"top1_last": float("nan")},
        {"top1_last": "50"},
        {"test": {"top1": "x"}},
        {"test": {"top1": None}},
        {"test": [1]},
        {"config": None},
        {"method": ["kd"]},
        {"epochs": None},
        {"command": "kd"},
        {"seconds": None},
    ],
)
def test_a_record_with_fields_of_wrong_types_is_refused(record, tmp_path, changes):
    replace(record, **changes).write(tmp_path)
    with pytest.raises(CheckpointError, match=f"is damaged: {next(iter(changes))}"):
        read_record(tmp_path)
    assert find_finished(tmp_path, record.run_key) is None


def test_a_record_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "record.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_record(tmp_path)


def test_a_record_of_a_newer_version_is_not_overwritten(record, tmp_path):
    from kdbench.records.record import FILE, NewerRecordError, _digest

    content = {**asdict(record), "invented_later": 1}
    text = json.dumps({"digest": _digest(content), **content})
    (tmp_path / FILE).write_text(text)
    with pytest.raises(NewerRecordError, match=r"newer kdbench: .* does not know invented_later"):
        find_finished(tmp_path, record.run_key)
    assert (tmp_path / FILE).read_text() == text
