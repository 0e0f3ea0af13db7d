import numpy as np
import pytest

from kdbench.errors import DataError
from kdbench.records.collect import collect
from kdbench.records.rows import read_metrics
from kdbench.report.cells import Options
from kdbench.report.curves import group_runs, mean_over, read_columns, spread_over
from kdbench.report.table import build_table
from tests.helpers.synthetic import Study, write_run, write_study, write_trouble

TINY = Study(rows=(("scratch", "none"), ("kd", "dtkd")), pairs=("a_b", "c_d"), seeds=2, epochs=5)


def group(folder, **options):
    found = collect(folder)
    return group_runs(found.runs, build_table(found.runs, [], Options(**options)))


def test_groups_are_the_cells_of_the_table(tmp_path):
    write_study(tmp_path, TINY)
    groups, problems = group(tmp_path)
    assert problems == []
    assert [(g.row, g.column[-3:], list(g.runs)) for g in groups] == [
        ("scratch", "a_b", [0, 1]),
        ("kd, dtkd", "a_b", [0, 1]),
        ("scratch", "c_d", [0, 1]),
        ("kd, dtkd", "c_d", [0, 1]),
    ]
    scratch, dtkd, *_ = groups
    assert (scratch.has_teacher, dtkd.has_teacher) == (False, True)
    assert dtkd.curves["test/top1"].shape == (2, 5)
    assert "temperature/teacher_mean" not in scratch.curves
    low, high = dtkd.temperature_band("teacher")
    assert np.all(low < dtkd.mean("temperature/teacher_mean"))
    assert np.all(high > dtkd.mean("temperature/teacher_mean"))


def test_older_runs_show_their_extremes(tmp_path):
    write_run(tmp_path, Study(epochs=5, quantiles=False), "a_b", "kd", "dtkd", 0)
    (found,), _ = group(tmp_path)
    low, _ = found.temperature_band("student")
    assert low.tolist() == found.mean("temperature/student_min").tolist()


def test_runs_of_different_length_and_failed_ones(tmp_path):
    for seed, epochs in ((0, 5), (1, 3)):
        write_run(tmp_path, Study(epochs=epochs), "a_b", "kd", "dtkd", seed, epochs=5, config={})
    failed = {"status": "failed", "top1_last": None, "config": {}}
    write_run(tmp_path, TINY, "a_b", "kd", "dtkd", 2, **failed)
    (found,), _ = group(tmp_path)
    assert list(found.runs) == [0, 1]
    assert np.isnan(found.curves["test/top1"][1]).tolist() == [False] * 3 + [True] * 2
    assert np.isfinite(found.mean("test/top1")).all()


def test_of_two_runs_with_one_seed_the_last_one_counts(tmp_path):
    for name, finished in (("a", "2026-11-22"), ("b", "2026-11-21")):
        write_run(tmp_path / name, TINY, "a_b", "kd", "dtkd", 0, finished=finished)
    (found,), _ = group(tmp_path)
    assert tmp_path / "a" in found.runs[0].folder.parents


def test_damaged_metrics_are_reported(tmp_path):
    write_study(tmp_path, TINY)
    write_trouble(tmp_path, TINY)
    groups, problems = group(tmp_path)
    assert len(problems) == 1
    assert "kd-step/seed93/metrics.csv cannot be read" in problems[0]
    assert next(g for g in groups if g.row == "kd, step").curves == {}


def test_columns_are_those_of_read_metrics(tmp_path):
    path = write_run(tmp_path, TINY, "a_b", "kd", "dtkd", 0) / "metrics.csv"
    rows = read_metrics(path)
    names = list(rows[0])
    found = read_columns(path, [*names, "missing"])
    assert {name: curve.tolist() for name, curve in found.items()} == {
        name: [row[name] for row in rows] for name in names
    }


@pytest.mark.parametrize("content", ["", "epoch,a\n0,?\n", "epoch,a\n0,1,2\n", "epoch,a\n0\n"])
def test_what_is_no_table(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"metrics\.csv cannot be read"):
        read_columns(path, ["a"])


def test_empty_cells_and_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,a,b\n0,,\n1,inf,\n")
    found = read_columns(path, ["a", "b"])
    assert list(found) == ["a"]
    assert np.array_equal(found["a"], [np.nan, np.inf], equal_nan=True)


def test_mean_and_spread_leave_out_what_is_not_finite():
    curves = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan], [np.inf, 7.0, 1.0]])
    assert mean_over(curves).tolist() == [2, 6, 1]
    spread = spread_over(curves)
    assert spread[:2] == pytest.approx([2**0.5] * 2)
    assert np.isnan(spread[2])
