import math

import pytest

from kdbench.errors import ConfigError
from kdbench.report.metric import METRICS, find_metric
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
    assert all(metric.value(record) is not None for metric in METRICS.values())


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
