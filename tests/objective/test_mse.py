import pytest
import torch
import torch.nn.functional as F

from kdbench.config.compose import compose_config
from kdbench.objective.mse import MSE
from kdbench.temperature.base import Temperatures, uniform
from kdbench.temperature.soften import scale_logits
from tests.helpers.outputs import of


@pytest.mark.parametrize(
    ("phi", "golden"),
    [(0.1, 1.1006750000), (0.7, 0.3530750000), (1.0, 1.2462500000), (1 / 7, 0.9352295918)],
)
def test_golden_values_of_annealing_distillation(set_a, phi, golden):
    ones = torch.ones(2, dtype=torch.float64)
    temperatures = Temperatures(ones[:, None] / phi, ones[:, None], ones)
    assert MSE()(of(*set_a), temperatures).mean().item() == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 100.0])
def test_a_common_temperature_and_its_scale_cancel(set_a, tau):
    found = MSE()(of(*set_a), uniform(tau, like=set_a[0]))
    torch.testing.assert_close(found, F.mse_loss(*set_a[:2], reduction="none").mean(1))


def test_gradient_is_the_difference(set_a):
    teacher, student, targets = set_a
    student.requires_grad_()
    MSE()(of(teacher, student, targets), uniform(4.0, like=teacher)).sum().backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 2)  # 2 of 4 classes


def test_a_shift_matters(set_a):
    teacher, _, targets = set_a
    found = MSE()(of(teacher, teacher + 3, targets), uniform(4.0, like=teacher))
    torch.testing.assert_close(found, torch.full_like(found, 9.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_scale_logits_are_quotients(dtype, size):
    logits = (size * torch.randn(8, 20, generator=torch.Generator().manual_seed(0))).to(dtype)
    tau = torch.linspace(0.5, 20, 8)[:, None].to(torch.promote_types(dtype, torch.float32))
    found, exact = scale_logits(logits, tau), logits.double() / tau.double()
    assert found.dtype == tau.dtype
    resolution = 4 * torch.finfo(tau.dtype).eps * (1 + exact.abs().amax(1, keepdim=True))
    assert ((found - exact).abs() <= resolution).all()


def test_the_objective_is_regression_alone():
    objective = compose_config(["objective=mse"]).objective
    assert (objective.ce_weight, objective.terms.mse.weight) == (0.0, 1.0)
