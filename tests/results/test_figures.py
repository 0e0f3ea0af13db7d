import re
from dataclasses import replace

import numpy as np
import pytest
from synthetic import SURVEY, Study, write_run, write_study

from kdbench.results.collect import collect
from kdbench.results.curves import Group, group_runs
from kdbench.results.figures import (
    choose_styles,
    draw_differences,
    draw_learning,
    draw_learning_panels,
    draw_temperature_means,
    draw_temperature_panels,
    write_figure,
)
from kdbench.results.table import Options, build_table

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


def titles(panels):
    return [panel.title for panel in panels]


def make_group(row, accuracies, runs=None):
    """A group of no runs in particular with given accuracies [runs, epochs]."""
    seeds = range(len(accuracies)) if runs is None else runs
    return Group(row, "x", dict.fromkeys(seeds), {"test/top1": np.array(accuracies, float)})


def test_every_row_has_a_line_of_its_own():
    rows = ["scratch", "kd", *map(str, range(20))]
    styles = choose_styles(rows, "kd", ["scratch"])
    assert styles["kd"] == "base d0"
    assert styles["scratch"] == "alone d2"
    assert len(set(styles.values())) == len(rows)
    assert choose_styles(["a"], None, []) == {"a": "c1 d0"}


def test_learning(few):
    groups, styles = few
    whole, late = draw_learning(groups, styles)
    assert (whole.title, late.title) == ("all of training", "the last 25 %, enlarged")
    assert whole.svg.count('class="line') == len(groups)
    assert whole.svg.count('class="band') == len(groups)
    assert "test accuracy (top-1), %" in whole.svg
    assert ">epoch<" in whole.svg


def test_short_runs_are_not_enlarged(tmp_path):
    write_study(tmp_path, replace(FEW, epochs=3))
    assert titles(draw_learning(*read(tmp_path))) == ["all of training"]


def test_nothing_to_draw():
    assert draw_learning([], {}) == []
    assert draw_learning_panels([], {}, "x") == ("", [])
    assert draw_differences([], None, {}) == []
    assert draw_temperature_panels([], {}) == []
    assert draw_temperature_means([], {}) == []


def test_panels_of_taught_rows(few):
    groups, styles = few
    shared, panels = draw_learning_panels(groups, styles, "back")
    assert titles(panels) == ["kd", "kd, annealing", "kd, dtkd"]
    assert shared.count('class="line behind"') == 3
    assert all('<use href="#back"/>' in panel.svg for panel in panels)


def test_differences_are_paired_by_seed(monkeypatch):
    monkeypatch.setattr(Group, "accuracy", "test/top1")
    monkeypatch.setattr(Group, "is_taught", True)
    baseline = make_group("kd", [[10, 20], [30, 40]], runs=[1, 2])
    other = make_group("dtkd", [[35, 45], [0, 0], [15, 25]], runs=[2, 9, 1])
    (panel,) = draw_differences([baseline, other], baseline, {"dtkd": "c1 d1"})
    assert panel.title == "dtkd"
    (line,) = re.findall(r'class="line c1" d="M([^"]*)"', panel.svg)
    places = [point.split(",")[1] for point in line.split()]
    (zero,) = re.findall(r'class="line level base" d="M[\d.]+,([\d.]+) ', panel.svg)
    assert places[0] == places[1]  # five points ahead after either epoch, whatever seed 9 did
    assert float(places[0]) < float(zero)


def test_temperatures(few):
    groups, styles = few
    panels = draw_temperature_panels(groups, styles)
    drawn = {panel.title: re.findall(r'class="line (\w+)"', panel.svg) for panel in panels}
    assert drawn == {
        "kd": ["both"],
        "kd, annealing": ["teacher", "student"],
        "kd, dtkd": ["teacher", "student"],
    }
    ticks = {tuple(re.findall(r'class="end">([\d.]+)<', panel.svg)) for panel in panels}
    assert len(ticks) == 1  # the same axis everywhere
    means = draw_temperature_means(groups, styles)
    assert titles(means) == ["teacher", "student"]
    assert [panel.svg.count('class="line') for panel in means] == [3, 3]


def test_a_few_wild_samples_do_not_set_the_scale(tmp_path):
    write_study(tmp_path, FEW)
    metrics = write_run(tmp_path, FEW, "a_b", "kd", "normkd", 0) / "metrics.csv"
    head, *rows = metrics.read_text().splitlines()
    place = head.split(",").index("temperature/student_p95")
    wild = [",".join([*(c := row.split(","))[:place], "1e9", *c[place + 1 :]]) for row in rows]
    metrics.write_text("\n".join([head, *wild]) + "\n")
    ticks = re.findall(r'class="end">([^<]+)<', draw_temperature_panels(*read(tmp_path))[0].svg)
    assert max(map(float, ticks)) <= 20


def test_figure_as_a_file(few, tmp_path):
    groups, styles = few
    write_figure(tmp_path / "learning.svg", draw_learning(groups, styles)[0].svg)
    text = (tmp_path / "learning.svg").read_text()
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg" class="chart"')
    assert "prefers-color-scheme: dark" in text


def test_the_survey_has_every_strategy():
    from paths import ROOT

    known = {path.stem for path in (ROOT / "conf" / "temperature").glob("*.yaml")}
    assert known == {temperature for _, temperature in SURVEY.rows} - {"none"}
