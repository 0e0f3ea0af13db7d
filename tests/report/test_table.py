import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest

from kdbench.config.compose import CONF
from kdbench.errors import ConfigError
from kdbench.records.collect import RunFolder
from kdbench.records.select import parse_conditions
from kdbench.report.cells import Options
from kdbench.report.statistics import compare_all
from kdbench.report.table import build_table, select
from tests.records.test_record import make_record

PAIR = "cifar100, resnet56_resnet20"
OWN = {"scratch": "none", "kd": "constant", "dkd": "constant", "ctkd": "ctkd"}
CLEAN = {
    "git": {"commit": "a" * 40, "dirty": False, "diff_digest": None},
    "versions": {"kdbench": "0.1.0", "torch": "2.15.0"},
}


def run(method="kd", seed=0, top1=50.0, temperature=None, **changes):
    taught = method != "scratch"
    record = make_record(
        dataset="cifar100",
        pair="resnet56_resnet20",
        teacher="resnet56" if taught else None,
        student="resnet20",
        method=method,
        temperature=temperature or OWN[method],
        seed=seed,
        top1_last=top1,
        top1_best=top1 + 1,
        teacher_top1=72.0 if taught else None,
        teacher_digest="t" * 64 if taught else None,
        protocol="paper",
        epochs=240,
        config={"seed": seed, "dataset": {"epochs": 240}},
        environment=CLEAN,
        finished=f"2026-01-01T00:00:{seed:02}",
        setting="changed" if temperature else "published",
    )
    return RunFolder(Path(f"{method}-{seed}"), replace(record, **changes))


def runs(method, tops, **changes):
    return [run(method, seed, top1, **changes) for seed, top1 in enumerate(tops)]


def build(found, unfinished=(), **options):
    return build_table(found, unfinished, Options(**options))


def test_a_cell():
    tops = [70.0, 71.0, 72.0]
    table = build([*runs("kd", tops), run(seed=3, status="failed", top1_last=None)])
    cell = table.cells["kd", PAIR]
    assert (cell.done, cell.failed, cell.planned) == (3, 1, None)
    assert cell.values == dict(enumerate(tops))
    assert (cell.mean, cell.std) == (fmean(tops), stdev(tops))
    assert cell.best_mean == fmean(tops) + 1
    assert cell.published.value == 70.66
    assert cell.difference == pytest.approx(71.0 - 70.66)
    assert table.title == "cifar100, 240 epochs, protocol paper"
    assert table.teacher == {PAIR: 72.0}
    assert table.teacher_published[PAIR].value == 72.34
    assert table.notes == []


def test_one_run_has_no_spread_and_a_failed_one_no_mean():
    table = build([run("kd"), run("dkd", status="failed", top1_last=None)])
    assert (table.cells["kd", PAIR].mean, table.cells["kd", PAIR].std) == (50.0, None)
    assert table.cells["dkd", PAIR].mean is None
    assert table.cells["dkd", PAIR].failed == 1


def test_a_seed_that_failed_and_was_then_done_is_done():
    cell = build([run(status="failed"), run()]).cells["kd", PAIR]
    assert (cell.done, cell.failed) == (1, 0)


def test_the_student_alone_and_the_baseline_come_first():
    found = [run("dkd"), run("kd", temperature="cosine"), run("kd"), run("ctkd"), run("scratch")]
    assert build(found).rows == ["scratch", "kd", "ctkd", "dkd", "kd, cosine"]
    assert build(found, baseline="dkd").rows[:2] == ["scratch", "dkd"]


@pytest.mark.parametrize(("metric", "order"), [("top1_last", "dkd kd"), ("nll", "kd dkd")])
def test_the_best_comes_first_where_it_is_requested(metric, order):
    found = [run("kd", top1=60.0), run("dkd", top1=61.0), run("scratch", top1=90.0)]
    found = [replace(r, record=replace(r.record, test={"nll": r.record.top1_last})) for r in found]
    assert build(found, metric=metric, sort="mean").rows == ["scratch", *order.split()]


def test_a_student_alone_stands_in_the_columns_of_all_its_teachers():
    other = {"pair": "resnet110_resnet20", "teacher": "resnet110"}
    found = [run("scratch", run_key="s"), run(run_key="a"), run(run_key="b", **other)]
    table = build(found)
    assert {table.cells["scratch", column].done for column in table.columns} == {1}
    assert len(table.columns) == 2
    planned = {(row, column): {0} for row in ("scratch", "kd") for column in table.columns}
    assert {cell.done for cell in build(found, planned=planned).cells.values()} == {1}


def test_published_numbers_stand_beside_methods_as_published_only():
    table = build([run("kd"), run("kd", temperature="cosine"), run("scratch")])
    assert table.cells["scratch", PAIR].published.value == 69.06
    assert table.cells["kd, cosine", PAIR].published is None
    assert build([run("kd")], metric="agreement").cells["kd", PAIR].published is None
    split = build([run("kd"), run("kd", config={"optim": {"lr": 1}}, setting="changed")])
    shown = {row: split.cells[row, PAIR].published for row in split.rows}
    assert len(shown) == 2
    assert [published.value for published in shown.values() if published] == [70.66]
    assert build([run("kd")], metric="agreement").teacher == {}


def test_a_published_number_stands_only_beside_its_own_setting():
    differs = {"optim.lr": [0.05, 0.3], "temperature.tau": [4.0, 8]}
    other = {"setting": "changed", "setting_differs": differs}
    table = build([*runs("kd", [60.0, 61.0, 62.0], **other), run("dkd")])
    cell = table.cells["kd", PAIR]
    assert (cell.published, cell.difference) == (None, None)
    assert table.cells["dkd", PAIR].published.value == 71.97
    (note,) = [note for note in table.notes if "70.66" in note]
    assert f"kd ({PAIR}), 70.66" in note
    assert "optim.lr=0.05, here 0.3; temperature.tau=4.0, here 8" in note
    assert "71.97" not in note


def test_a_setting_neither_published_nor_recorded_is_reported():
    table = build([run("kd", setting="default", setting_differs={}), run("dkd", setting=None)])
    assert {cell.published for cell in table.cells.values()} == {None}
    notes = "\n".join(table.notes)
    assert "their setting is not published; the runs use the method's defaults: kd" in notes
    assert f"{PAIR}: no published setting for kd; using the method's defaults." in notes
    assert "the records of the runs do not have their setting: dkd" in notes
    assert build([run("kd", dataset="mnist5k", setting="default")]).notes == []


def test_a_row_whose_label_says_that_it_is_another_setting_needs_no_note():
    assert build([run("kd", temperature="cosine")], baseline="kd, cosine").notes == []


def test_one_setting_of_many_cells_is_one_note():
    other = {"setting": "changed", "setting_differs": {"run.epochs": [240, 2]}}
    (note,) = build([run("kd", **other), run("dkd", **other), run("scratch", **other)]).notes
    assert note.count("run.epochs=240, here 2") == 1
    assert all(number in note for number in ("70.66", "71.97", "69.06"))


def test_published_numbers_are_set_against_the_same_epoch_of_ours():
    last, best = 70.0, 71.0  # as ``run`` makes them
    cells = build([run(name, top1=last) for name in ("kd", "dkd", "ctkd", "scratch")]).cells
    found = {
        row: (c.published.selection, c.matching, c.difference) for (row, _), c in cells.items()
    }
    assert found == {
        "kd": ("last", "last", pytest.approx(last - 70.66)),  # RepDistiller
        "dkd": ("best", "best", pytest.approx(best - 71.97)),  # mdistiller
        "ctkd": ("unknown", "last", pytest.approx(last - 71.19)),
        "scratch": ("last", "last", pytest.approx(last - 69.06)),
    }
    strict = build([run("dkd", top1=last, top1_best=None, protocol="strict")])
    assert strict.cells["dkd", PAIR].difference is None  # we have no best epoch on the test set
    shown = build([run("dkd", top1=last)], metric="top1_best").cells["dkd", PAIR]
    assert (shown.mean, shown.difference) == (best, pytest.approx(best - 71.97))


def vary(base, lead, n=6):
    """Values of n seeds that lead a base by about as much each."""
    return [base + seed + lead + 0.1 * (seed % 3) for seed in range(n)]


def test_comparisons_are_with_the_baseline_of_the_column():
    found = [*runs("kd", range(50, 56)), *runs("dkd", vary(50, 1)), *runs("ctkd", [50, 60])]
    table = build(found)
    better = table.cells["dkd", PAIR].comparison
    assert (better.n, better.difference, better.verdict) == (6, pytest.approx(1.1), "better")
    assert table.cells["ctkd", PAIR].comparison.verdict == "too few seeds (n=2)"
    assert table.cells["kd", PAIR].comparison is None
    elsewhere = runs("dkd", range(7), pair="resnet110_resnet20")
    assert (
        build([*found, *elsewhere]).cells["dkd", "cifar100, resnet110_resnet20"].comparison is None
    )


def test_three_seeds_are_few_and_two_are_no_comparison():
    for n, verdict, few in (
        (2, "too few seeds (n=2)", False),
        (3, "better", True),
        (5, "better", False),
    ):
        table = build([*runs("kd", range(50, 50 + n)), *runs("dkd", vary(50, 10, n))])
        found = table.cells["dkd", PAIR].comparison
        assert (found.verdict, found.has_few_seeds) == (verdict, few)
        assert table.cells["dkd", PAIR].is_winner == (n > 2)
        assert table.cells["dkd", PAIR].is_best
        assert not table.cells["kd", PAIR].is_best


def test_a_small_loss_wins():
    found = [*runs("kd", range(50, 56)), *runs("dkd", vary(50, 9))]
    found = [replace(r, record=replace(r.record, seconds=r.record.top1_last)) for r in found]
    cell = build(found, metric="seconds").cells["kd", PAIR]
    assert cell.is_winner
    assert cell.is_best


def test_equal_means_are_best_together_and_one_row_is_not_best():
    found = [run("kd", top1=50.001), run("dkd", top1=50.0), run("ctkd", top1=49.0)]
    best = {row for (row, _), cell in build(found).cells.items() if cell.is_best}
    assert best == {"kd", "dkd"}
    assert not build([run("kd")]).cells["kd", PAIR].is_best


@pytest.mark.parametrize(
    "path", sorted((CONF / "table").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_table_can_give_a_verdict_with_the_seeds_that_it_plans(path):
    (seeds,) = re.findall(r"^ +seed: (.+)$", path.read_text(), re.MULTILINE)
    planned = range(int(re.fullmatch(r"range\((\d+)\)", seeds).group(1)))
    rows = [f"row{i}" for i in range(20)]  # as many as any of them has
    values = {
        row: {s: 60 + s + 5 * i + 0.01 * (s % 2) * i for s in planned} for i, row in enumerate(rows)
    }
    found = compare_all(values, "row0")
    assert {comparison.verdict for comparison in found.values()} == {"better"}


def test_plans():
    planned = {("kd", PAIR): set(range(5)), ("dkd", PAIR): set(range(5))}
    table = build([*runs("kd", [1, 2]), run("kd", seed=9), run("ctkd")], planned=planned)
    assert (table.cells["kd", PAIR].planned, table.cells["kd", PAIR].done) == (5, 2)
    assert (table.cells["dkd", PAIR].planned, table.cells["dkd", PAIR].done) == (5, 0)
    assert ("ctkd", PAIR) not in table.cells


def test_a_plan_holds_for_each_of_two_budgets():
    table = build([run(epochs=3), run(epochs=240)], planned={("kd", PAIR): {0, 1}})
    assert table.columns == [f"{PAIR}, epochs=3", f"{PAIR}, epochs=240"]
    assert all(cell.planned == 2 for cell in table.cells.values())


def test_a_metric_that_not_every_run_has():
    reached = {"convergence": {"epochs_to": {"60": 3}}}
    never = {"convergence": {"epochs_to": {}}}
    table = build([run(seed=0, **reached), run(seed=1, **never)], metric="epochs_to.60")
    assert table.cells["kd", PAIR].values == {0: 3.0}
    assert any("no value for 1 of 2 runs" in note for note in table.notes)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"protocol": "strict"}, "protocols: paper (1 run), strict (1 run)"),
        ({"epochs": 30}, "budgets (epochs): 240 (1 run), 30 (1 run)"),
        ({"precision": "bf16"}, "precisions: bf16 (1 run), precision (1 run)"),
        ({"environment": {**CLEAN, "git": {"commit": "b" * 40}}}, "code revisions: aaaaaaaaaa"),
        (
            {"environment": {**CLEAN, "git": {"dirty": True}}},
            "uncommitted code changes: 1 run of",
        ),
        ({"environment": {**CLEAN, "versions": {}}}, "kdbench: 0.1.0 (1 run), unknown (1 run)"),
        (
            {"teacher_digest": "u" * 64},
            "teachers of equal name (resnet56, cifar100): tttttttt, uuu",
        ),
        ({"dataset_digest": "e"}, "datasets of equal name (cifar100): d, e"),
    ],
)
def test_what_makes_runs_less_comparable_is_reported(change, note):
    table = build([run("kd"), run("dkd", **change)])
    assert any(note in found for found in table.notes), table.notes


def test_a_run_that_is_there_twice_counts_once():
    first = run(top1=50.0, finished="2026-01-01T09:30:00+01:00")
    second = run(top1=51.0, finished="2026-01-01T09:00:00+00:00")  # half an hour later
    table = build([second, first])
    assert table.cells["kd", PAIR].values == {0: 51.0}
    assert any(note.endswith("last to finish is shown; 1 run is not.") for note in table.notes)


def test_a_baseline_that_is_not_there_is_reported():
    (note,) = build([run("kd"), run("dkd")], baseline="scratch").notes
    assert "no row 'scratch' has values; choose" in note
    assert build([run("dkd")]).notes == []


def test_settings_that_failed_do_not_cost_the_baseline():
    wild = run(config={"optim": {"lr": 1e30}}, status="failed")
    table = build([run(config={"optim": {"lr": 0.1}}), wild, run("dkd")])
    assert table.baseline == table.rows[0] == "kd"
    assert table.cells["dkd", PAIR].comparison.n == 1
    assert "Rows of kd have optim.lr=0.1 unless their label says otherwise." in table.notes


def test_the_only_setting_that_has_values_is_the_baseline():
    never = run(config={"optim": {"lr": 0.1}}, convergence={"epochs_to": {}})
    found = [never, run(config={"optim": {"lr": 0.2}}), run("dkd")]
    table = build(found, metric="epochs_to.50")
    assert table.baseline == "kd, optim.lr=0.2"
    assert any(note.startswith("The baseline kd is kd, optim.lr=0.2") for note in table.notes)


def test_rows_of_temperatures_have_the_constant_one_as_baseline():
    found = [run(temperature=name) for name in ("constant", "cosine", "linear")]
    table = build(found, rows="temperature", columns="method")
    assert (table.baseline, table.columns) == ("constant", ["kd"])
    assert set(table.cells) == {(name, "kd") for name in ("constant", "cosine", "linear")}


def test_rows_of_numbers_come_in_their_order():
    found = [run(config={"temperature": {"tau": tau}}) for tau in (16.0, 2.0, 8.0, 1.0)]
    assert build(found).rows == [f"kd, temperature.tau={tau}" for tau in (1.0, 2.0, 8.0, 16.0)]


def test_of_several_settings_none_is_the_baseline():
    table = build([run(config={"optim": {"lr": lr}}) for lr in (0.1, 0.2)])
    assert table.baseline is None
    assert any("similar: 'kd, optim.lr=0.1', 'kd, optim.lr=0.2'" in note for note in table.notes)


def test_a_selection_is_reported():
    filters = parse_conditions(["method=kd,dkd", "seed<5"])
    (note,) = build([run("kd")], filters=filters, protocol="paper").notes
    assert note == "Only runs with method=kd,dkd, seed<5 and protocol=paper are shown."


def test_unfinished_runs_are_reported():
    (note,) = build([run("kd")], [Path("a"), Path("b")]).notes
    assert note == "Unfinished runs, not in the table: 2."


def test_selection():
    found = [*runs("kd", range(4)), run("dkd", protocol="strict")]
    few = select(found, Options(filters=parse_conditions(["seed<2", "method=kd"])))
    assert [r.record.seed for r in few] == [0, 1]
    assert [r.record.method for r in select(found, Options(protocol="strict"))] == ["dkd"]


@pytest.mark.parametrize(
    "options", [{"sort": "size"}, {"metric": "beauty"}, {"rows": "x"}, {"columns": "method"}]
)
def test_impossible_options(options):
    with pytest.raises(ConfigError, match="--"):
        build([run()], **options)


def test_nothing_at_all():
    table = build([])
    assert (table.rows, table.columns, table.cells) == ([], [], {})
