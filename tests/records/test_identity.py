from pathlib import Path

import pytest

from kdbench.records.identity import RunIdentity, slug
from kdbench.tracker.base import NullTracker

HOSTILE = ["a/b", "../../etc", "two\nlines", "x" * 300, "\U0001f600", "<script>alert(1)</script>"]
HOSTILE += ["", "..", "=cmd()", "tab\tand\0nul", "\ud800"]


def identity(**changes):
    names = {
        "run_key": "ab" * 32,
        "folder": Path("run"),
        "dataset": "cifar100",
        "pair": "resnet56_resnet20",
        "method": "kd",
        "temperature": "constant",
        "objective": "kd",
        "seed": 0,
    }
    return RunIdentity(**(names | changes))


CONFIG = {"student": {"arch": "resnet20"}, "run": {"protocol": "paper", "epochs": 240}}


@pytest.mark.parametrize("text", HOSTILE)
def test_slug_is_safe_everywhere(text):
    made = slug(text)
    assert 1 <= len(made) <= 64
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert ".." not in made
    assert made[0] not in ".-"


def test_slug_keeps_names_and_tells_long_ones_apart():
    assert slug("wrn_40_2-logit_std.1") == "wrn_40_2-logit_std.1"
    assert slug("x" * 300 + "a") != slug("x" * 300 + "b")


def test_names_of_a_run():
    run = identity()
    assert run.name == "kd-constant-seed0"
    assert run.group == "cifar100/resnet56_resnet20/kd"
    assert run.tags == ("cifar100", "resnet56_resnet20", "kd", "constant")
    assert run.job_type == "train"
    assert identity(role="teacher").job_type == "teacher"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_still_give_three_short_levels(text):
    run = identity(dataset=text, pair=text, method=text, temperature=text)
    assert run.group.count("/") == 2
    assert len(run.group) <= 128
    assert all(1 <= len(tag) <= 64 for tag in run.tags)


def test_labels_are_flat_and_complete():
    labels = identity().labels(CONFIG)
    assert labels["teacher"] == "resnet56"
    assert labels["student"] == "resnet20"
    assert (labels["protocol"], labels["epochs"], labels["seed"]) == ("paper", 240, 0)
    assert labels["run_key"] == "ab" * 32
    assert identity(pair="resnet20", role="teacher").labels(CONFIG)["teacher"] == "none"


def test_a_run_of_a_table_is_grouped_and_tagged_by_it():
    run = identity(table="temperature_survey")
    assert run.group == "temperature_survey/resnet56_resnet20/kd"
    assert run.tags[-1] == "temperature_survey"
    assert run.labels(CONFIG)["table"] == "temperature_survey"
    assert identity().labels(CONFIG)["table"] == "none"


def test_every_config_value_is_a_flat_label():
    settings = {"_target_": "a.Cosine", "start": 8.0, "end": 4.0}
    config = {**CONFIG, "temperature": settings, "plugin": {"_target_": "b.DOT", "delta": 0.1}}
    run = identity(temperature="cosine", teacher_choices={"weights": "auto", "seed": 3})
    labels = run.labels(config)
    assert labels["temperature"] == "cosine"
    assert labels["strategy"] == "cosine start=8.0 end=4.0"
    assert (labels["temperature_start"], labels["temperature_end"]) == (8.0, 4.0)
    assert (labels["plugin"], labels["plugin_delta"]) == ("DOT", 0.1)
    assert (labels["teacher_weights"], labels["teacher_seed"]) == ("auto", 3)
    assert all(isinstance(value, str | int | float | None) for value in labels.values())


def test_long_settings_stay_different():
    def strategy(last):
        settings = {f"option_{k}": k for k in range(50)} | {"last": last}
        return identity(temperature="rlkd").labels({**CONFIG, "temperature": settings})["strategy"]

    assert len(strategy(1)) <= 120
    assert strategy(1) != strategy(2)


def test_null_tracker_keeps_the_state_it_was_given():
    tracker = NullTracker()
    assert tracker.state_dict() == {}
    tracker.start(identity(), CONFIG, {"run_id": "abc", "epoch": 4})
    tracker.log({"epoch": 5, "step": 60})
    tracker.finish("done", {})
    assert tracker.state_dict() == {"run_id": "abc", "epoch": 4}
