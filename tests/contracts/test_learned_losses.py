"""Runs whose loss learns, remembers, and reads features and indices: like every other run."""

import logging
import signal
from pathlib import Path

import pytest
import torch

from kdbench.config.build import build
from kdbench.config.check import check, find_problems
from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key, strategy_name
from kdbench.digest import state_digest
from kdbench.engine.capacity import measure_learner
from kdbench.engine.job import Job
from kdbench.engine.run import train_jobs
from kdbench.errors import ConfigError
from kdbench.model.compute import choose_compute
from tests.helpers.harness import HINT, STATEFUL, TINY, result, run

VIEW = [
    *TINY,
    "+view@dataset.views.second=randaugment",
    "+objective.terms.second._target_=kdbench.objective.objective.Term",
    "+objective.terms.second.loss._target_=kdbench.objective.kl.KL",
    "+objective.terms.second.weight=0.5",
    "+objective.terms.second.view=second",
]


@pytest.fixture(autouse=True)
def own_code(monkeypatch):
    monkeypatch.setenv("KDBENCH_ALLOW_TARGETS", "tests.helpers.stateful,tests.helpers.stateful.net")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job(outputs, name, *overrides):
    cfg = compose_config([*overrides, f"paths.outputs={outputs}"])
    return Job(cfg, Path(outputs) / name, run_key(cfg))


def saved_objective(folder):
    newest = max((folder / "checkpoint").glob("step*.pt"))
    return torch.load(newest, weights_only=True)["learner"]["objective"]


@pytest.mark.parametrize(
    "overrides", [HINT, [*HINT, *STATEFUL[-3:]]], ids=["hint", "everything at once"]
)
def test_killed_and_started_again(tmp_path, overrides):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # 5 steps of the teacher, then the middle of the student's second epoch.
    assert run(killed, overrides, KDBENCH_KILL_AT="step:13") == -signal.SIGKILL
    before = saved_objective(killed / "run")
    assert run(killed, overrides) == run(whole, overrides) == 0
    assert result(killed) == result(whole)
    after = saved_objective(killed / "run")
    assert state_digest(after) == state_digest(saved_objective(whole / "run"))
    learned = [name for name in after if name.startswith("terms.hint.loss.")]
    assert len(learned) == 3  # weight, bias, memory
    assert not any(torch.equal(after[name], before[name]) for name in learned)


def test_beside_others_it_ends_as_alone_and_they_do_too(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shared = ["teacher.memo=memory", VIEW[len(TINY)]]
    kinds = {"hint": [*HINT, *shared], "kd": [*TINY, *shared], "view": [*VIEW, shared[0]]}
    alone = {
        name: train_jobs([job(tmp_path, f"alone-{name}", *overrides)])[0].record
        for name, overrides in kinds.items()
    }
    assert "teacher.memo=memory is off for objective kd: it needs features" in caplog.text
    jobs = [job(tmp_path, f"together-{name}", *kinds[name]) for name in kinds]
    together = dict(zip(kinds, (each.record for each in train_jobs(jobs)), strict=True))
    for name in kinds:
        assert together[name].weights_digest == alone[name].weights_digest
        assert together[name].metrics_digest == alone[name].metrics_digest
        assert (together[name].teacher_memo is None) == (name == "hint")
        assert (alone[name].teacher_memo is None) == (name == "hint")
    assert len({record.weights_digest for record in alone.values()}) == len(kinds)


def test_capacity_counts_what_a_loss_holds():
    compute = choose_compute("cpu", "fp32", channels_last=True)
    plain, hint = (
        measure_learner(compose_config([*overrides, "tracker=csv"]), compute)
        for overrides in (TINY, HINT)
    )
    assert hint[0] - plain[0] >= 4 * (5 * (64 * 64 + 64) + 40 * 64)  # projection x 5, memory
    assert hint[1] > plain[1]


def test_a_network_without_such_features_is_a_problem_of_the_config():
    overrides = [*HINT, "student=torchvision", "student.arch=torchvision:squeezenet1_1"]
    (problem,) = find_problems(compose_config([*overrides, "dataset.image_size=64"]))
    assert problem.startswith("objective: features of SqueezeNet")


def test_a_view_that_nobody_makes_is_a_problem_of_the_config():
    cfg = compose_config([*VIEW[:-1], "+objective.terms.second.view=third"])
    with pytest.raises(
        ConfigError, match=r"reads the view 'third', but dataset.views has .*second"
    ):
        check(cfg)


def test_the_name_of_a_strategy_is_a_label():
    usual = compose_config([*TINY, "temperature=dtkd"])
    named = compose_config([*TINY, "temperature=dtkd", "temperature.name=mine"])
    assert (strategy_name(usual), strategy_name(named)) == ("dtkd", "mine")
    assert run_key(usual) == run_key(named)
    assert find_problems(named) == []
    assert type(build(named.temperature)) is type(build(usual.temperature))


def test_a_strategy_that_hides_what_it_learns_is_a_problem_of_the_config():
    cfg = compose_config([*TINY, "temperature._target_=tests.helpers.stateful.Hidden"])
    (problem,) = find_problems(cfg)
    assert "temperature: Hidden.taus[0] is an unregistered Parameter" in problem
