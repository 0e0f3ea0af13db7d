"""Sweepers other than Hydra's basic one, and what they need from the command."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import yaml
from wandb import wandb_agent

from kdbench.config.overrides import compose_checked
from kdbench.records.record import read_record
from tests.helpers.paths import ROOT

SWEEP = ROOT / "scripts" / "wandb_sweep.yaml"
OPTUNA = [
    "-m",
    "hydra/sweeper=optuna",
    "hydra.sweeper.direction=maximize",
    "hydra.sweeper.n_jobs=1",  # trials at a time: each is a launch of its own
    "hydra.sweeper.sampler.seed=1",
]
needs_optuna = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="hydra-optuna-sweeper is not installed",
)


@pytest.mark.slow
def test_a_later_batch_knows_what_an_earlier_one_has_trained(kdbench):
    code, said = kdbench("-m", "hydra.sweeper.max_batch_size=2", "method=scratch", "seed=0,1,1,2")
    assert code == 0, said
    assert "0 already done, 2 to train" in said
    assert "1 already done, 1 to train" in said
    assert len(kdbench.runs) == 3


def test_an_interval_is_checked_by_its_ends(kdbench):
    code, said = kdbench("-m", "temperature.taau=interval(1, 8)", "optim.lr=tag(log,interval(1,2))")
    assert code == 2
    assert "temperature.taau is not a key; did you mean temperature.tau" in said
    assert "optim.lr" not in said


@needs_optuna
def test_optuna_maximises_the_accuracy(kdbench):
    code, said = kdbench(*OPTUNA, "hydra.sweeper.n_trials=3", "temperature.tau=interval(1,8)")
    assert code == 0, said
    found = yaml.safe_load((kdbench.folder / "out/runs/optimization_results.yaml").read_text())
    records = [read_record(path.parent) for path in kdbench.runs]
    assert len(records) == 3
    assert found["best_value"] == max(record.top1_last for record in records)
    taus = [record.config["temperature"]["tau"] for record in records]
    assert found["best_params"]["temperature.tau"] in taus


@needs_optuna
def test_a_trial_may_fail_where_the_study_allows_it(kdbench):
    # With this seed: 2, again 2, then 0, which no run accepts.
    trials = [*OPTUNA, "hydra.sweeper.n_trials=3", "temperature.tau=choice(0,2)"]
    code, said = kdbench(*trials, "hydra.sweeper.max_failure_rate=1.0")
    assert code == 0, said
    assert "1 already done, 0 to train" in said
    assert "tau must be a finite number > 0" in said
    assert [read_record(path.parent).status for path in kdbench.runs] == ["done"]
    assert kdbench(*trials)[0] == 9


@pytest.mark.slow
def test_what_a_wandb_agent_starts_is_a_run(kdbench, tmp_path, monkeypatch):
    sweep = yaml.safe_load(SWEEP.read_text())
    for pick in (min, max):
        values = {
            key: pick(space.get("values") or (space["min"], space["max"]))
            for key, space in sweep["parameters"].items()
        }
        overrides = agent_command(sweep, values, tmp_path, monkeypatch)
        cfg = compose_checked(overrides)
        assert (cfg.temperature.tau, cfg.optim.lr, cfg.seed) == tuple(values.values())
    code, said = kdbench(*overrides, "dataset.train_size=200")  # of which some are for validation
    assert code == 0, said
    (path,) = kdbench.runs
    assert sweep["metric"]["name"] in path.with_name("metrics.csv").read_text().split("\n")[0]


def agent_command(sweep, values, folder, monkeypatch):
    """The overrides in the command that W&B's agent makes of a sweep; it needs no server for it."""
    started = []
    monkeypatch.chdir(folder)  # where the agent leaves the values in a file
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda **how: started.append(how["command"]))
    for variable in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(variable, "")  # so that they are as before after the test
    agent = SimpleNamespace(
        _in_jupyter=False,
        _sweep_command=sweep["command"],
        _function=None,
        _forward_signals=False,
        _run_processes={},
    )
    run = {"run_id": "r1", "program": sweep["program"]}
    arguments = {key: {"value": value} for key, value in values.items()}
    with pytest.raises(AttributeError, match="last_sigterm_time"):
        wandb_agent.Agent._command_run(agent, {**run, "args": arguments})
    (command,) = started
    assert command[:2] == ["/usr/bin/env", "kdbench-train"]
    return command[2:]
