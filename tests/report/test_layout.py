import pytest

from kdbench.config.compose import CONF
from kdbench.errors import ConfigError
from kdbench.report.layout import (
    base_label,
    lay_out,
    method_label,
    natural_key,
    own_temperature,
    pair_label,
)
from tests.records.test_record import make_record


def record(tau=4.0, lr=0.1, **changes):
    names = {"method": "kd", "temperature": "constant", "dataset": "cifar100", "pair": "a_b"}
    config = {"seed": changes.get("seed", 0), "temperature": {"tau": tau}, "optim": {"lr": lr}}
    config["run"] = {"data_seed": changes.get("seed", 0)}
    return make_record(**{**names, "config": config, **changes})


def labels(records, **axes):
    cells = lay_out(records, **{"rows": "method", "columns": "pair", **axes})
    return {key: sorted(r.seed for r in found) for key, found in cells.items()}


@pytest.mark.parametrize(
    ("method", "temperature", "label"),
    [
        ("kd", "constant", "kd"),
        ("kd", "cosine", "kd, cosine"),
        ("ctkd", "ctkd", "ctkd"),
        ("dkd_atkd", "atkd", "dkd_atkd"),
        ("dkd_atkd", "constant", "dkd_atkd, constant"),
        ("scratch", "none", "scratch"),
        ("mine", "mine", "mine"),
        ("mine", "constant", "mine, constant"),
    ],
)
def test_a_method_is_named_with_its_temperature_where_it_is_not_its_own(method, temperature, label):
    assert method_label(method, temperature) == label


def test_every_method_has_a_temperature_of_its_own():
    for path in (CONF / "method").glob("*.yaml"):
        name = own_temperature(path.stem)
        assert (CONF / "temperature" / f"{name}.yaml").is_file(), path.stem


def test_imagenet_is_not_repeated():
    assert pair_label("imagenet", "imagenet_resnet34_resnet18") == "imagenet, resnet34_resnet18"


def test_runs_that_differ_in_the_seed_share_a_cell():
    runs = [record(seed=seed) for seed in (2, 0, 1)]
    assert labels(runs) == {("kd", "cifar100, a_b"): [0, 1, 2]}


def test_runs_that_differ_in_a_setting_are_rows_of_their_own():
    runs = [record(tau=tau, seed=seed) for tau in (4.0, 8.0) for seed in (0, 1)]
    column = "cifar100, a_b"
    found = labels(runs)
    assert found == {
        ("kd, temperature.tau=4.0", column): [0, 1],
        ("kd, temperature.tau=8.0", column): [0, 1],
    }
    assert {base_label(row) for row, _ in found} == {"kd"}


def test_a_setting_that_follows_from_another_is_not_named():
    runs = [record(tau=4.0, lr=0.1), record(tau=8.0, lr=0.2), record(tau=8.0, lr=0.3)]
    assert {row for row, _ in labels(runs)} == {
        "kd, temperature.tau=4.0, optim.lr=0.1",
        "kd, optim.lr=0.2",  # two of three have tau=8
        "kd, optim.lr=0.3",
    }
    assert {row for row, _ in labels(runs[:2])} == {
        "kd, temperature.tau=4.0",
        "kd, temperature.tau=8.0",
    }


def test_one_run_that_tries_something_changes_no_other_name():
    wild = record(tau=9.0, lr=3.0, seed=7)
    runs = [record(seed=seed) for seed in range(3)]
    assert {row for row, _ in labels([*runs, wild])} == {"kd", "kd, temperature.tau=9.0"}
    sweep = [record(tau=tau, seed=seed) for tau in (1.0, 2.0, 4.0) for seed in range(2)]
    assert {row for row, _ in labels([*sweep, record(tau=4.0, lr=3.0, seed=5)])} == {
        *(f"kd, temperature.tau={tau}" for tau in (1.0, 2.0, 4.0)),
        "kd, temperature.tau=4.0, optim.lr=3.0",
    }


def test_runs_that_failed_are_not_the_usual_ones():
    failed = [record(lr=9.0, seed=seed, status="failed") for seed in range(5)]
    assert {row for row, _ in labels([record(seed=0), *failed])} == {"kd", "kd, optim.lr=9.0"}


def test_a_long_value_is_shortened_and_stays_different():
    runs = [record(tau=["x" * 300 + end]) for end in "ab"]
    rows = {row for row, _ in labels(runs)}
    assert len(rows) == 2
    assert max(map(len, rows)) < 80


def test_beside_temperatures_a_method_is_named_alone():
    runs = [record(), record(temperature="cosine"), record(method="dkd", temperature="cosine")]
    assert set(labels(runs, rows="temperature", columns="method")) == {
        ("constant", "kd"),
        ("cosine", "kd"),
        ("cosine", "dkd"),
    }
    assert ("dkd", "cosine") in labels(runs, rows="method", columns="temperature")


def test_numbers_in_labels_are_ordered_by_size():
    names = [f"kd, temperature.tau={tau}" for tau in (0.5, 1.0, 2.0, 8.0, 16.0, 128.0)]
    assert sorted(reversed(names), key=natural_key) == names
    mixed = ["a, lr=-1.0", "a, lr=1e-05", "a, lr=0.1", "b", "resnet8x4", "resnet32x4"]
    assert sorted(mixed[::-1], key=natural_key) == mixed
    assert sorted(["2", "a", ""], key=natural_key) == ["", "2", "a"]


def test_each_pair_may_have_its_own_setting():
    runs = [record(tau=4.0), record(tau=8.0, pair="c_d")]
    assert set(labels(runs)) == {("kd", "cifar100, a_b"), ("kd", "cifar100, c_d")}


def test_budgets_and_protocols_are_columns():
    runs = [record(epochs=3), record(epochs=240), record(epochs=3, method="ctkd")]
    assert set(labels(runs)) == {
        ("kd", "cifar100, a_b, epochs=3"),
        ("kd", "cifar100, a_b, epochs=240"),
        ("ctkd, constant", "cifar100, a_b, epochs=3"),
    }


def test_a_method_with_its_own_budget_stays_in_its_column():
    runs = [record(epochs=240), record(epochs=480, method="mlkd")]
    assert {column for _, column in labels(runs)} == {"cifar100, a_b"}


def test_two_teachers_of_one_name_are_two_rows():
    runs = [record(teacher_digest="1" * 64), record(teacher_digest="2" * 64)]
    assert {row for row, _ in labels(runs)} == {"kd, teacher=11111111", "kd, teacher=22222222"}


def test_a_list_does_not_break_the_label():
    runs = [record(tau=[1, 2]), record(tau=4.0)]
    assert ("kd, temperature.tau=[1,2]", "cifar100, a_b") in labels(runs)
    assert {base_label(row) for row, _ in labels(runs)} == {"kd"}


def test_other_axes():
    runs = [record(), record(method="dkd", objective="dkd"), record(pair="c_d")]
    found = labels(runs, rows="temperature", columns="dataset")
    assert {column for _, column in found} == {"cifar100, pair=a_b", "cifar100, pair=c_d"}
    assert {row for row, _ in found} == {"constant, method=kd", "constant, method=dkd"}


@pytest.mark.parametrize("axes", [{"rows": "colour"}, {"columns": "seed"}, {"columns": "method"}])
def test_impossible_axes(axes):
    with pytest.raises(ConfigError, match="--"):
        labels([record()], **axes)
