from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdbench.records.collect import collect
from kdbench.report.cells import Options
from kdbench.report.curves import CellRuns, group_runs
from kdbench.report.figures import (
    choose_styles,
    draw_all,
    draw_cost,
    draw_differences,
    draw_learning,
    draw_learning_rows,
    draw_temperature_means,
    draw_temperatures,
    fit_range,
    write_figures,
)
from kdbench.report.table import build_table
from tests.helpers.synthetic import SURVEY, Study, write_run, write_study

FEW = Study(
    rows=(("scratch", "none"), ("kd", "constant"), ("kd", "dtkd"), ("kd", "annealing")),
    pairs=("a_b",),
    seeds=2,
    epochs=16,
)


def read(folder):
    found = collect(folder)
    table = build_table(found.runs, [], Options())
    groups, _ = group_runs(found.runs, table)
    return groups, choose_styles(table.rows, table.baseline, ["scratch"])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    write_study(folder, FEW)
    return read(folder)


def titles(drawing):
    return [panel.title for panel in drawing.panels]


def axes_of(drawing, place=0):
    axes = Figure().add_axes((0, 0, 1, 1))
    drawing.panels[place].draw(axes)
    return axes


def rows_in(axes):
    """Row -> line."""
    return {line.get_gid().removeprefix("row "): line for line in axes.lines if line.get_gid()}


def make_group(row, accuracies, runs=None):
    """A group of no runs in particular with given accuracies [runs, epochs]."""
    seeds = range(len(accuracies)) if runs is None else runs
    return CellRuns(row, "x", dict.fromkeys(seeds), {"test/top1": np.array(accuracies, float)})


def test_every_row_has_a_line_of_its_own():
    rows = ["scratch", "kd", *map(str, range(20))]
    styles = choose_styles(rows, "kd", ["scratch"])
    assert styles["kd"] == "base d0"
    assert styles["scratch"] == "alone d2"
    assert len(set(styles.values())) == len(rows)
    assert choose_styles(["a"], None, []) == {"a": "c1 d0"}


def test_learning(few):
    groups, styles = few
    drawing = draw_learning(groups, styles)
    assert titles(drawing) == ["test accuracy (top-1), %", "the last 25 %, enlarged"]
    whole, late = axes_of(drawing), axes_of(drawing, 1)
    assert set(rows_in(whole)) == {group.row for group in groups}
    assert len(whole.collections) == len(groups)  # the bands
    assert (whole.get_xlabel(), whole.get_xlim(), late.get_xlim()) == ("epoch", (1, 16), (13, 16))
    assert {name.split("  ")[0] for name, _ in drawing.legend} == set(rows_in(whole))
    scratch = rows_in(late)["scratch"].get_ydata()[12:]
    assert max(scratch) < late.get_ylim()[0]  # it does not press the others flat


def test_short_runs_are_not_enlarged(tmp_path):
    write_study(tmp_path, replace(FEW, epochs=3))
    assert titles(draw_learning(*read(tmp_path))) == ["test accuracy (top-1), %"]


def test_nothing_to_draw():
    drawn = (draw_learning, draw_learning_rows, draw_temperatures, draw_temperature_means)
    assert [draw([], {}) for draw in (*drawn, draw_cost)] == [None] * 5
    assert draw_differences([], None, {}) is None
    assert draw_all([], None, {}) == []


def test_each_taught_row_stands_before_all_others(few):
    drawing = draw_learning_rows(*few)
    assert titles(drawing) == ["kd", "kd, annealing", "kd, dtkd"]
    axes = axes_of(drawing, 2)
    assert list(rows_in(axes)) == ["kd, dtkd"]
    assert len(axes.lines) == 3 + 1
    assert {axes_of(drawing, n).get_ylim() for n in range(3)} == {axes.get_ylim()}


def test_differences_are_paired_by_seed(monkeypatch):
    monkeypatch.setattr(CellRuns, "accuracy", "test/top1")
    monkeypatch.setattr(CellRuns, "has_teacher", True)
    baseline = make_group("kd", [[10, 20], [30, 40]], runs=[1, 2])
    other = make_group("dtkd", [[35, 45], [0, 0], [15, 25]], runs=[2, 9, 1])
    drawing = draw_differences([baseline, other], baseline, {"dtkd": "c1 d1"})
    assert titles(drawing) == ["dtkd"]
    line = rows_in(axes_of(drawing))["dtkd"]
    assert line.get_ydata().tolist() == [5, 5]  # whatever seed 9 did


def test_temperatures(few):
    groups, styles = few
    drawing = draw_temperatures(groups, styles)
    drawn = {
        panel.title: list(rows_in(axes_of(drawing, n))) for n, panel in enumerate(drawing.panels)
    }
    assert drawn == {
        "kd": ["kd: both"],
        "kd, annealing": ["kd, annealing: teacher", "kd, annealing: student"],
        "kd, dtkd": ["kd, dtkd: teacher", "kd, dtkd: student"],
    }
    every = [axes_of(drawing, n) for n in range(3)]
    assert len({axes.get_ylim() for axes in every}) == 1  # the same axis everywhere
    assert {axes.get_yscale() for axes in every} == {"log"}
    assert len(every[2].collections) == 2  # a band for each of the two
    means = draw_temperature_means(groups, styles)
    assert titles(means) == ["mean teacher temperature", "mean student temperature"]
    assert [len(rows_in(axes_of(means, n))) for n in range(2)] == [3, 3]


def test_a_few_wild_samples_do_not_set_the_scale(tmp_path):
    write_study(tmp_path, FEW)
    metrics = write_run(tmp_path, FEW, "a_b", "kd", "normkd", 0, metrics_digest=None)
    metrics /= "metrics.csv"
    head, *rows = metrics.read_text().splitlines()
    place = head.split(",").index("temperature/student_p95")
    wild = [",".join([*(c := row.split(","))[:place], "1e9", *c[place + 1 :]]) for row in rows]
    metrics.write_text("\n".join([head, *wild]) + "\n")
    assert axes_of(draw_temperatures(*read(tmp_path))).get_ylim()[1] <= 25


def test_cost_is_that_of_a_run_alone(few):
    groups, styles = few
    axes = axes_of(draw_cost(groups, styles))
    record = groups[0].runs[0].record
    assert axes.get_xlabel() == "time of a run alone, minutes"
    points = [container[0].get_xdata()[0] for container in axes.containers]
    assert points[0] == pytest.approx((record.alone_seconds + 0.5) / 60)
    names = {text.get_text(): text for text in axes.texts}
    assert set(names) == {group.row for group in groups}
    heights = sorted(text.get_position()[1] for text in names.values())
    assert min(b - a for a, b in pairwise(heights)) > 0.02  # they do not lie on each other


def test_ranges_show_what_is_finite():
    assert fit_range([1, 2, float("nan"), float("inf")]) == fit_range([1, 2])
    assert fit_range([0, -1, 2], log=True) == fit_range([2], log=True)
    assert fit_range([])[0] < fit_range([])[1]


def test_every_figure_as_a_file(few, tmp_path):
    groups, styles = few
    names = ("learning", "learning-rows", "difference", "temperature", "temperature-means", "cost")
    paths = write_figures(tmp_path / "a", {"x": groups}, "kd", styles)
    assert {path.name for path in paths} == {
        f"{name}.{ending}" for name in names for ending in ("pdf", "svg", "png")
    }
    magic = {".pdf": b"%PDF-", ".svg": b"<?xml", ".png": b"\x89PNG"}
    assert all(path.read_bytes().startswith(magic[path.suffix]) for path in paths)
    again = write_figures(tmp_path / "b", {"x": groups}, "kd", styles)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
    several = write_figures(tmp_path / "c", {"x y": groups[:2], "z": []}, "kd", styles)
    assert all(path.name.startswith("x-y-") for path in several)


def test_the_survey_has_every_strategy():
    from tests.helpers.paths import ROOT

    known = {path.stem for path in (ROOT / "conf" / "temperature").glob("*.yaml")}
    assert known == {temperature for _, temperature in SURVEY.rows} - {"none"}
