import pytest
import torch

from kdbench.engine import guard as guard_module
from kdbench.engine.guard import FiniteGuard
from kdbench.errors import NumericalError
from kdbench.objective.objective import LossTerms
from kdbench.progress import Progress
from kdbench.temperature.base import uniform


def terms(kd=1.0, tau=4.0):
    losses = {"ce": torch.ones(3), "kd": torch.tensor([1.0, kd, 1.0])}
    return LossTerms(losses, uniform(tau, like=torch.zeros(3, 5)))


def at(step):
    return Progress(step, 1000, 0, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_step_term_and_temperatures_are_named(value):
    guard = FiniteGuard(torch.device("cpu"))
    guard.watch(terms(), at(16))
    with pytest.raises(NumericalError) as caught:
        guard.watch(terms(kd=value, tau=2.5), at(17))
    text = str(caught.value)
    assert text.startswith("kd not finite at step 17 (ce=3, kd=")
    assert "teacher temperature min=2.5" in text


def test_a_later_check_still_names_the_first_bad_step(monkeypatch):
    monkeypatch.setattr(guard_module, "CUDA_INTERVAL", 50)
    guard = FiniteGuard(torch.device("cuda"))  # only its interval is used; tensors are on the CPU
    for step in range(1, 20):
        guard.watch(terms(kd=float("nan") if step >= 7 else 1.0, tau=float(step)), at(step))
    with pytest.raises(NumericalError, match=r"kd not finite at step 7 .*temperature max=7"):
        guard.check()


def test_finite_steps_pass():
    guard = FiniteGuard(torch.device("cpu"))
    for step in range(5):
        guard.watch(terms(), at(step))
    guard.check()
