"""What a strategy has learned by itself survives being killed, like everything else."""

import signal

import pytest
import torch

from kdbench.digest import state_digest
from tests.helpers.harness import TINY, result, run


def learned(outputs):
    """State of the strategy in the newest checkpoint."""
    newest = max((outputs / "run" / "checkpoint").glob("step*.pt"))
    return torch.load(newest, weights_only=True)["learner"]["objective"]


def count_of_steps(state):
    return state["temperature.agent.actor._extra_state"][0].item()


@pytest.mark.parametrize("name", ["rlkd", "meta"])
def test_killed_and_started_again(tmp_path, name):
    overrides = [*TINY, f"temperature={name}"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # 5 steps of the teacher, then the middle of the student's second epoch.
    assert run(killed, overrides, KDBENCH_KILL_AT="step:13") == -signal.SIGKILL
    before = learned(killed)
    assert run(killed, overrides) == run(whole, overrides) == 0
    assert result(killed) == result(whole)
    assert state_digest(learned(killed)) == state_digest(learned(whole))
    assert state_digest(learned(killed)) != state_digest(before)
    if name == "rlkd":  # every batch but the first pays the one before, with 5 steps of the actor
        assert (count_of_steps(before), count_of_steps(learned(whole))) == (5 * 4, 5 * 14)
