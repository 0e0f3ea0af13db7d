import pytest
from test_record import make_record

from kdbench.results.collect import collect


@pytest.fixture
def outputs(tmp_path):
    for seed in range(2):
        (tmp_path / f"run{seed}").mkdir()
        make_record(seed=seed).write(tmp_path / f"run{seed}")
    return tmp_path


def test_runs_come_in_the_order_of_their_folders(outputs):
    found = collect(outputs)
    assert [run.record.seed for run in found.runs] == [0, 1]
    assert [run.folder.name for run in found.runs] == ["run0", "run1"]
    assert found.runs[0].metrics == found.runs[0].timings == []
    assert (found.unfinished, found.problems) == ([], [])


def test_one_run_is_a_folder_of_runs_too(outputs):
    assert len(collect(outputs / "run1").runs) == 1


def test_nothing_is_left_out_silently(outputs):
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
def test_fields_of_other_types(outputs, change):
    make_record(**change).write(outputs / "run0")
    (problem,) = collect(outputs).problems
    assert f"run0/record.json is damaged: {next(iter(change))} is" in problem
