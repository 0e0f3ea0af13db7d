from types import SimpleNamespace

import pytest

from kdbench.records.collect import collect
from kdbench.report.cells import Options
from kdbench.report.curves import CellRuns, group_runs
from kdbench.report.figures import choose_styles
from kdbench.report.table import build_table
from kdbench.report.views import (
    choose_levels,
    describe_hardware,
    judge_speed,
    view_convergence,
    view_cost,
    view_distillation,
    write_difference,
    write_spread,
)
from tests.helpers.synthetic import Study, write_run

ONE = Study(epochs=4)


def make_groups(**rows):
    """Rows with given (aulc, epochs to 50 %) by seed."""
    groups = []
    for row, runs in rows.items():
        records = {
            seed: SimpleNamespace(
                record=SimpleNamespace(
                    teacher=None if row == "scratch" else "big",
                    convergence={
                        "aulc": aulc,
                        "epochs_to": {"40": 1} | ({} if epochs is None else {"50": epochs}),
                    },
                )
            )
            for seed, (aulc, epochs) in enumerate(runs)
        }
        groups.append(CellRuns(row, "x", records, {}))
    return groups


def entries(view, row):
    return next(found for name, _, found in view.rows if name == row)


@pytest.fixture
def groups(tmp_path):
    for method, temperature in (("scratch", "none"), ("kd", "constant"), ("kd", "dtkd")):
        for seed in range(2):
            write_run(tmp_path, ONE, "a_b", method, temperature, seed)
    found = collect(tmp_path)
    return group_runs(found.runs, build_table(found.runs, [], Options()))[0]


def test_levels_that_half_of_the_runs_reached():
    assert choose_levels(make_groups(kd=[(1, 3), (1, None)], dtkd=[(1, None)] * 2)) == [40]
    assert choose_levels(make_groups(kd=[(1, 3), (1, None)], dtkd=[(1, 9), (1, None)])) == [40, 50]
    assert choose_levels([]) == []


def test_faster_slower_or_neither():
    kd = [(50 + seed, 20) for seed in range(8)]
    ahead = [(51 + seed + 0.1 * seed, 12) for seed in range(8)]
    behind = [(49 + seed - 0.1 * seed, 25) for seed in range(8)]
    mixed = [(50 + seed + (-1) ** seed, 20) for seed in range(8)]
    scratch = [(10, 90)] * 8
    output = judge_speed(
        make_groups(scratch=scratch, kd=kd, ctkd=ahead, dtkd=behind, meta=mixed), "kd"
    )
    assert output[0].startswith("Faster than kd, by points of mean accuracy: ctkd +1.35.")
    assert output[1].startswith(
        "Slower than kd, by points of mean accuracy: dtkd \N{MINUS SIGN}1.35."
    )
    assert output[2] == "Not distinguishable from kd in speed: 1 row."
    assert output[3] == (
        "kd reaches 50 % in 20.0 epochs on average, the fastest row in 12.0 (ctkd); test it with "
        "--metric epochs_to.50."
    )
    assert not any("scratch" in sentence for sentence in output)


def test_too_few_seeds():
    output = judge_speed(make_groups(kd=[(50, 9)] * 2, dtkd=[(51, 9), (53, 9)]), "kd")
    assert output[0].startswith(
        "Too few seeds to compare the speed with kd (1 row with at most 2 shared seeds; at "
        "least 3 needed). The largest mean difference: dtkd +2.00 points"
    )
    assert output[1] == "No row reaches 50 % in fewer epochs than kd (9.0)."


def test_three_seeds_suffice_where_they_agree():
    rows = {f"row{i}": [(56.0, 9), (56.1, 9), (56.2, 9)] for i in range(2)}
    output = judge_speed(make_groups(kd=[(50, 9)] * 3, **rows), "kd")
    assert output[0].startswith("Faster than kd, by points of mean accuracy: row0 +6.10; row1")


@pytest.mark.parametrize("baseline", [None, "missing", "scratch"])
def test_no_baseline(baseline):
    groups = make_groups(scratch=[(1, 1)], kd=[(1, 1)])
    assert judge_speed(groups, baseline) == ["There is no baseline to compare with."]


def test_nothing_but_the_baseline():
    output = judge_speed(make_groups(scratch=[(1, 1)], kd=[(1, 1)]), "kd")
    assert output == ["There is no row to compare with kd."]


def test_convergence():
    groups = make_groups(kd=[(50, 9), (51, 10)], dtkd=[(52, 8), (53, None)])
    view = view_convergence(groups, "kd", choose_styles(["kd", "dtkd"], "kd", []))
    assert [head.title for head in view.heads] == [
        "mean accuracy over the epochs, %",
        "against kd, points",
        "epochs to 40\N{NO-BREAK SPACE}%",
        "epochs to 50\N{NO-BREAK SPACE}%",
    ]
    assert [entry.text for entry in entries(view, "kd")] == [
        "50.50 ± 0.71",
        "baseline",
        "1.0 ± 0.0",
        "9.5 ± 0.7",
    ]
    area, lead, _, epochs = entries(view, "dtkd")
    assert area.strip.count("<circle") == 2
    assert (lead.text[:5], lead.note) == ("+2.00", "too few seeds (n=2)")
    assert (epochs.text, epochs.note) == ("8.0", "1 of 2 runs")


def test_distillation_and_cost(groups):
    styles = choose_styles([group.row for group in groups], "kd", ["scratch"])
    view = view_distillation(groups, styles)
    assert [head.better.split()[0] for head in view.heads] == [
        "higher",
        "lower",
        "higher",
        "lower",
        "lower",
    ]
    assert [entry.text for entry in entries(view, "scratch")][:3] == ["\N{EN DASH}"] * 3
    assert all(entry.strip for entry in entries(view, "kd"))
    cost = view_cost(groups, styles)
    assert cost.heads[-1].title == "share of the teacher, % of training alone"
    assert entries(cost, "kd")[-1].text == "31.0 ± 0.0"
    records = [run.record for group in groups for run in group.runs.values()]
    assert describe_hardware(records) == "Trained on cpu, 2 threads, fp32; 4 per cohort."


def test_cohorts_of_different_sizes_are_reported(tmp_path):
    for temperature, size in (("constant", 1), ("constant", 3), ("dtkd", 6)):
        write_run(tmp_path, ONE, "a_b", "kd", temperature, size, cohort_size=size)
    found = collect(tmp_path)
    groups, _ = group_runs(found.runs, build_table(found.runs, [], Options()))
    cost = view_cost(groups, choose_styles([group.row for group in groups], "kd", []))
    assert cost.heads[-1].title == "cohort size, runs"
    assert [found[-1].text for _, _, found in cost.rows] == ["1 to 3", "6"]


def test_a_column_without_values_is_left_out(groups):
    for group in groups:
        for run in group.runs.values():
            (run.folder / "timings.csv").unlink()
    styles = choose_styles([group.row for group in groups], "kd", ["scratch"])
    assert len(view_cost(groups, styles).heads) == 6


def test_numbers_in_words():
    found = SimpleNamespace(difference=-0.314, interval=(-0.7, 0.1))
    assert write_difference(found) == "\N{MINUS SIGN}0.31 (\N{MINUS SIGN}0.70 to +0.10)"
    assert write_difference(SimpleNamespace(difference=0.5, interval=None)) == "+0.50"
    assert write_difference(SimpleNamespace(difference=None)) == "\N{EN DASH}"
    assert write_spread([1.0], "{:.1f}".format) == "1.0"
