import math
from pathlib import Path

import pytest
import torch

from kdbench.engine.metrics import evaluate_logits
from kdbench.errors import ConfigError
from kdbench.records.collect import RunFolder
from kdbench.records.evaluation import Evaluation
from kdbench.records.metric import METRICS, Metric, choosable, find_metric, of_split
from kdbench.report.cells import Options
from kdbench.report.curves import CellRuns
from kdbench.report.render import write_text
from kdbench.report.table import build_table
from kdbench.report.views import view_distillation
from kdbench.tracker.display import Display
from kdbench.tracker.panels import sections
from tests.records.test_record import make_record

RECORD = make_record(test={"top1": 50.0, "nll": math.nan, "agreement": 70.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top1_last", 50.0),
        ("agreement", 70.0),
        ("test.agreement", 70.0),
        ("aulc", 40.0),
        ("epochs_to.50", 2.0),
        ("epochs_to.90", None),
        ("nll", None),
        ("seconds", 1.5),
        ("val_top1_last", None),
    ],
)
def test_values(name, value):
    assert find_metric(name).value(RECORD) == value


def test_every_metric_is_a_number_of_a_record():
    times = ("own", "shared", "part", "teacher", "evaluation")
    known = {f"{name}_seconds": 1.0 for name in times}
    record = make_record(val_top1_last=1.0, val_top1_best=1.0, **known)
    measured = ("top1", "top5", "nll", "ece", "agreement", "teacher_kl", "logit_correlation")
    record.test.update(dict.fromkeys(measured, 1.0))
    assert all(metric.value(record) is not None for metric in choosable().values())


def test_all_that_is_measured_on_a_split_is_in_the_table():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    found = evaluate_logits(logits, torch.tensor([0, 1]), logits + torch.eye(2, 3))
    assert found.keys() == of_split(needs_teacher=False).keys() | of_split(needs_teacher=True)


def test_names_and_units():
    assert find_metric("nll").title == "negative log-likelihood, nats"
    assert find_metric("epochs_to.60").title == "time to 60 %, epochs"
    assert find_metric("seconds").write(12.61) == "12.6"
    assert find_metric("top1_last").write(0.5, sign=True) == "+0.50"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="is it 'top1_last'"):
        find_metric("top1_lst")
    with pytest.raises(ConfigError, match="is it 'agreement'"):
        find_metric("agrement")


@pytest.mark.parametrize("level", ["", "abc", "62", "60.0"])
def test_only_levels_that_records_have(level):
    with pytest.raises(ConfigError, match="with a level of 10, 20, 30"):
        find_metric(f"epochs_to.{level}")


BRIER = Metric(
    *("test.brier", "Brier score", "", 3),
    larger_is_better=False,
    curves=("test/brier", "val/brier"),
    short="Brier",
    page="distillation",
    chart="distillation",
    line=(("test/brier", "Brier {:.2f}"),),
)


@pytest.fixture
def brier(monkeypatch):
    """One line more in the table of metrics, and records that have its values."""
    monkeypatch.setitem(METRICS, BRIER.name, BRIER)
    return [
        make_record(run_key=f"{seed}" * 64, seed=seed, test={"top1": 50.0, "brier": 0.25 + seed})
        for seed in (0, 1)
    ]


def test_a_new_metric_is_in_tables_and_summaries(brier):
    runs = [RunFolder(Path(f"{record.seed}"), record) for record in brier]
    table = build_table(runs, [], Options(metric="brier"))
    text = write_text(table)
    assert "Brier score" in text
    assert "0.750 ± 0.707" in text
    assert brier[1].numbers()["test/brier"] == 1.25  # what W&B and TensorBoard get


def test_a_new_metric_is_on_the_page(brier):
    runs = {record.seed: RunFolder(Path(f"{record.seed}"), record) for record in brier}
    shown = view_distillation([CellRuns("kd", "x", runs, {})], {"kd": "c1"})
    (place,) = [i for i, head in enumerate(shown.heads) if head.title == "Brier score"]
    assert shown.heads[place].better == "lower is better"
    assert shown.rows[0][2][place].text == "0.750 ± 0.707"


def test_a_new_metric_has_a_chart_and_stands_in_the_lines_of_the_terminal(brier, caplog):
    (chart,) = [c for s in sections() for c in s.charts if c.title == "Brier score"]
    assert chart.metrics == ("test/brier", "val/brier")
    with caplog.at_level("INFO", logger="kdbench"), Display(3, 1, {"k": "run"}) as display:
        display.epoch({"k": {"epoch": 1, "test/top1": 50.0, "test/brier": 0.25}})
    assert "Brier 0.25  test 50.0 %" in caplog.text


def test_a_new_metric_is_in_evaluations(brier):
    found = Evaluation(
        network={"arch": "net", "weights": "net.safetensors"},
        teacher=None,
        teacher_missing=None,
        dataset={"name": "d", "split": "test", "samples": 1, "trained_on": False},
        metrics={"top1": 50.0, "brier": 0.25},
        recorded=None,
        class_names=("a",),
        confusion=[[1]],
        circumstances={"precision": "fp32", "device": "cpu"},
    )
    assert "top-1 50.00 %  Brier 0.250" in found.describe()
