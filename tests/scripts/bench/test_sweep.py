import json
import runpy
from types import SimpleNamespace

import pytest
import torch

from kdbench.errors import NumericalError
from tests.helpers.paths import ROOT

BENCH = runpy.run_path(str(ROOT / "scripts" / "bench" / "sweep.py"))
TINY = ["--dataset=fake", "--pairs=resnet20_resnet8", "--steps=1", "--repeats=2", "--device=cpu"]


@pytest.fixture
def bench(tmp_path):
    threads = f"--threads={torch.get_num_threads()}"  # what this process has anyway

    def run(*arguments):
        BENCH["main"]([*TINY, threads, f"--outputs={tmp_path / 'out'}", *arguments])

    return run


def test_bound_is_1_for_one_run_and_rises_to_its_limit():
    teacher, student = 125_753_600, 40_818_944
    bounds = [BENCH["ratio_bound"](n, teacher, student) for n in (1, 2, 4, 8, 10**9)]
    assert bounds[0] == 1
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == pytest.approx((teacher + 3 * student) / (3 * student))


def test_ratios_are_within_a_round():
    cfgs = [SimpleNamespace(pair="p", method=method) for method in ("kd", "ctkd")]
    slow = {"teacher": 1.0, "single 1": 4.0, "single 2": 6.0, "cohort 2": 8.0}
    rounds = [slow, {name: value / 2 for name, value in slow.items()}]
    row = BENCH["summarize"](cfgs, (100, 50), rounds)
    assert row["ratio"] == row["ratio_min"] == row["ratio_max"] == 10 / 8
    assert row["singles_seconds"] == 7.5
    assert row["teacher_share_singles"] == 2 * 1 / 10
    assert row["bound"] == 2 * 250 / 400


def test_device_is_synchronized_before_and_after_the_work(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", calls.append)
    BENCH["stopwatch"](lambda: calls.append("work"), torch.device("cuda", 1))
    assert calls == [torch.device("cuda", 1), "work", torch.device("cuda", 1)]
    calls.clear()
    assert BENCH["stopwatch"](lambda: calls.append("work"), torch.device("cpu")) >= 0
    assert calls == ["work"]


def test_run_that_fails_ends_the_comparison():
    run = SimpleNamespace(learner=SimpleNamespace(step=7), error=NumericalError("not finite"))
    data = SimpleNamespace(steps_per_epoch=5)
    seen = []
    trainer = SimpleNamespace(
        runs=[run],
        data=data,
        epochs=240,
        total_steps=1200,
        train_step=lambda batch, progress, runs: seen.append((batch, progress.step, runs)),
    )
    with pytest.raises(NumericalError):
        BENCH["advance"](trainer, ["batch"])
    assert seen == [("batch", 7, [run])]


@pytest.mark.slow
def test_script_prints_a_table_and_writes_its_report(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bench("--learners=1,2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (path,) = (tmp_path / "out" / "bench").iterdir()
    report = json.loads(path.read_text())
    assert report["environment"]["versions"]["torch"] in torch.__version__
    assert report["environment"].keys() >= {"git", "cores", "python"}
    assert report["cpu"]
    assert report["gpu"] is None
    assert (report["steps"], report["repeats"], report["batch_size"]) == (1, 2, 64)
    assert [row["runs"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        assert row["methods"] == ["kd", "ctkd"][: row["runs"]]
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["teacher_share_singles"] > 0
        assert row["teacher_share_cohort"] > 0
        assert row["teacher_macs"] > row["student_macs"] > 0
        assert {name: len(values) for name, values in row["rounds"].items()} == {
            "teacher": 2,
            "singles": 2,
            "cohort": 2,
        }
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {11}


def test_mistakes_are_refused_before_anything_is_measured(bench, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench("--pairs=resnet20_resnet8,resnet20_resnet9")
    assert stopped.value.code == 2
    assert "resnet20_resnet9 does not exist" in capsys.readouterr().err
