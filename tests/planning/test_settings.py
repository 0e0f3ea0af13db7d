"""The settings of a method for people."""

import pytest

from kdbench.planning.settings import find_settings, write_settings


@pytest.fixture(scope="module")
def text():
    return write_settings("mlkd_atkd")  # listed pairs are our own choice, others the default


def test_each_pair_has_its_values_and_says_whose_they_are(text):
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["cifar100"][-1] == "setting"
    assert {"run.epochs", "optim.lr"} <= set(lines["cifar100"])
    assert lines["resnet32x4_shufflenetv1"][-2:] == ["ours", "[2]"]
    assert {"960", "0.01"} <= set(lines["resnet32x4_shufflenetv1"])
    assert " ".join(lines["resnet56_resnet20"]).endswith("not published, method's default")
    assert lines["[1]"][1:3] == ["learning", "rates"]


def test_what_all_pairs_share_is_reported_once(text):
    assert text.startswith("method=mlkd_atkd: MLKD with the temperature of ATKD")
    (shared,) = [line for line in text.splitlines() if line.startswith("all pairs: ")]
    assert "dataset.batch_size=64" in shared
    assert "temperature.mode=" in shared
    assert "optim.lr" not in shared


def test_published_defaults_differ_from_what_was_never_run():
    (pairs,) = find_settings("atkd").values()
    kinds = {each.pair: each.kind for each in pairs}
    assert kinds.pop("resnet32x4_resnet8x4") == "published, method's default"
    assert set(kinds.values()) == {"not published, method's default"}
