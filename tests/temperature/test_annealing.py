import pytest
import torch

from kdbench.objective.mse import MSE
from kdbench.progress import Progress
from kdbench.temperature.annealing import Annealing
from tests.helpers.outputs import of


def at(epoch, total):
    return Progress(step=epoch, total_steps=total, epoch=epoch, total_epochs=total)


def test_the_published_staircase():
    strategy = Annealing(tau_max=10, until=0.5)
    scales = [strategy.scale_at(at(epoch, 400)) for epoch in range(400)]
    assert scales == pytest.approx(
        [step / 10 for step in range(1, 11) for _ in range(20)] + [1.0] * 200
    )


@pytest.mark.parametrize(
    ("tau_max", "epoch", "golden"),
    [(10, 0, 1.1006750000), (10, 6, 0.3530750000), (10, 9, 1.2462500000), (7, 0, 0.9352295918)],
)
def test_golden_losses_of_set_a(set_a, tau_max, epoch, golden):
    strategy = Annealing(tau_max=tau_max, until=1.0)
    temperatures = strategy(of(*set_a), at(epoch, tau_max))
    assert MSE()(of(*set_a), temperatures).mean().item() == pytest.approx(golden, abs=1e-9)


def test_short_runs_reach_the_teacher():
    strategy = Annealing(tau_max=10, until=0.5)
    assert [strategy.scale_at(at(epoch, 4)) for epoch in range(4)] == [0.1, 0.6, 1.0, 1.0]


def test_without_steps_it_is_logit_regression():
    found = Annealing(tau_max=1, until=1.0)(of(torch.ones(2, 3), torch.ones(2, 3), None), at(0, 5))
    assert all((tensor == 1).all() for tensor in found)


def test_invalid_values_are_rejected():
    with pytest.raises(ValueError, match="tau_max must be"):
        Annealing(tau_max=0, until=1.0)
    with pytest.raises(ValueError, match="until must"):
        Annealing(tau_max=10, until=0.0)
