import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdbench.digest import file_digest
from kdbench.records.collect import collect, finished_at, parse_time
from kdbench.records.rows import write_metrics
from tests.records.test_record import make_record


@pytest.fixture
def outputs(tmp_path):
    (tmp_path / "README.md").write_text("what lies where")
    for seed in range(2):
        (tmp_path / f"run{seed}").mkdir()
        sound(seed=seed).write(tmp_path / f"run{seed}")
    return tmp_path


def sound(**changes):
    return make_record(**{"metrics_digest": None, **changes})


def test_runs_come_in_the_order_of_their_folders(outputs):
    found = collect(outputs)
    assert [run.record.seed for run in found.runs] == [0, 1]
    assert [run.folder.name for run in found.runs] == ["run0", "run1"]
    assert found.runs[0].metrics == found.runs[0].timings == []
    assert (found.unfinished, found.problems) == ([], [])


def test_a_single_run_folder_can_be_collected(outputs):
    assert len(collect(outputs / "run1").runs) == 1


def test_nothing_is_skipped_silently(outputs):
    (outputs / "run0" / "record.json").write_text("{")
    (outputs / "begun" / ".hydra").mkdir(parents=True)
    found = collect(outputs)
    assert [run.record.seed for run in found.runs] == [1]
    assert found.unfinished == [outputs / "begun"]
    (problem,) = found.problems
    assert "run0/record.json is damaged" in problem


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_no_damage_is_fatal(outputs, content):
    (outputs / "run0" / "record.json").write_bytes(content)
    (problem,) = collect(outputs).problems
    assert "run0/record.json is damaged" in problem


@pytest.mark.parametrize(
    "change",
    [{"seed": "0"}, {"config": None}, {"top1_last": "high"}, {"command": "x"}, {"started": None}],
)
def test_fields_of_wrong_types_are_reported(outputs, change):
    sound(**change).write(outputs / "run0")
    (problem,) = collect(outputs).problems
    assert f"run0/record.json is damaged: {next(iter(change))} is" in problem


def nested(levels):
    return {"a": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "x" * 200_000}, "method has 200,000 characters"),
        ({"seed": 10**40}, "is damaged: seed is 1000"),
        ({"seed": -(10**40)}, "is damaged: seed is -1000"),
        ({"top1_last": math.nan}, "is damaged: top1_last is nan"),
        ({"seconds": math.inf}, "is damaged: seconds is inf"),
        ({"cohort_size": 0}, "cohort_size is 0"),
        ({"finished": "yesterday"}, "finished is 'yesterday', which is not a time"),
        ({"config": nested(200)}, "nested more than 60 levels deep"),
    ],
)
def test_an_invalid_record_is_skipped_and_reported(outputs, change, reason):
    sound(**change).write(outputs / "run0")
    found = collect(outputs)
    (problem,) = found.problems
    assert "run0/record.json is " in problem
    assert reason in problem
    assert len(problem) < 400 + len(str(outputs))
    assert [run.record.seed for run in found.runs] == [1]


def test_metrics_changed_after_the_run_are_detected(outputs):
    path = outputs / "run0" / "metrics.csv"
    write_metrics(path, [{"epoch": 1, "test/top1": 50.0}])
    sound(metrics_digest=file_digest(path)).write(path.parent)
    run, _ = collect(outputs).runs
    assert (len(run.metrics), run.damage) == (1, None)
    path.write_text(path.read_text().replace("50.0", "90.0"))
    found = collect(outputs)
    assert (found.runs[0].metrics, found.problems) == ([], [])
    assert "run0/metrics.csv was changed after the run ended" in found.runs[0].damage
    path.unlink()
    assert "run0/metrics.csv is missing" in collect(outputs).runs[0].damage


def test_a_record_of_another_run_is_detected(tmp_path):
    own = tmp_path / "seed0-0123456789"
    own.mkdir()
    sound(run_key="0123456789" + "a" * 54).write(own)
    assert collect(tmp_path).problems == []
    sound(run_key="f" * 64).write(own)
    (problem,) = collect(tmp_path).problems
    assert "it belongs to the run ffffffffff, but the folder to 0123456789" in problem


def test_weights_of_another_run_are_detected(tmp_path):
    sound(run_key="f" * 64).write(tmp_path)
    save_file({"w": np.zeros(1)}, tmp_path / "student.safetensors", {"run_key": "a" * 64})
    (problem,) = collect(tmp_path).problems
    assert "but the student.safetensors to aaaaaaaaaa" in problem
    (tmp_path / "student.safetensors").write_bytes(b"\xff" * 20)  # reported when loaded
    assert collect(tmp_path).problems == []


def test_times_are_compared_as_times():
    late, early = "2026-11-21T09:00:00+00:00", "2026-11-21T09:30:00+01:00"
    assert early > late  # as texts
    assert finished_at(sound(finished=late)) > finished_at(sound(finished=early))
    assert parse_time("2026-11-21T09:30:00+01:00").hour == 8
    assert parse_time("2026-11-21T09:30:00") == parse_time("2026-11-21T09:30:00Z")
