import pytest
import torch

from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.objective.cskd import CSKD, cosine
from kdbench.temperature.base import Temperatures, uniform
from tests.helpers.outputs import of


@pytest.mark.parametrize(("inputs", "golden"), [("set_a", 0.7247076974), ("set_a3", 0.8236809415)])
def test_golden_value_at_a_constant_temperature(inputs, golden, request):
    objective = build_objective(compose_config(["objective=cskd", "temperature=constant"]))
    term = objective.from_logits(*request.getfixturevalue(inputs)).terms["cskd"]
    assert term.mean().item() == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize(
    ("inputs", "taus", "golden"),
    [
        ("set_a", [2.0, 6.0], 1.1789721632),
        ("set_a3", [2.0, 4.7191271047, 6.0], 1.4575310768),
    ],
)
def test_golden_value_at_the_temperatures_of_cswt(inputs, taus, golden, request):
    tau = torch.tensor(taus, dtype=torch.float64)
    scale = tau.mean().square().expand(len(tau))
    found = CSKD()(
        of(*request.getfixturevalue(inputs)),
        Temperatures(tau[:, None], tau[:, None], scale),
    )
    assert 2 * found.mean().item() == pytest.approx(golden, abs=1e-9)


def test_the_value_lies_between_its_bounds():
    generator = torch.Generator().manual_seed(0)
    teacher, student = 5 * torch.randn(2, 16, 10, generator=generator).double()
    found = CSKD()(of(teacher, student, None), uniform(4.0, like=teacher))
    assert (found > 0).all()
    assert (found < 16).all()


def test_one_sample_has_no_gradient(set_a):
    teacher, student = set_a[0][:1], set_a[1][:1].clone().requires_grad_()
    loss = CSKD()(of(teacher, student, None), uniform(4.0, like=teacher))
    loss.sum().backward()
    assert loss.item() < 1e-5
    assert student.grad.abs().max() < 1e-5


def test_cosine_is_invariant_to_scale():
    a, b = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1)).double()
    found = cosine(a, b, dim=0)
    torch.testing.assert_close(found, torch.cosine_similarity(a, b, dim=0), atol=1e-7, rtol=0)
    torch.testing.assert_close(cosine(3 * a, 7 * b, dim=0), found, atol=1e-7, rtol=0)


def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient():
    a, b = torch.zeros(3, 1, requires_grad=True), torch.ones(3, 1)
    found = cosine(a, b, dim=0)
    found.sum().backward()
    assert found.item() == 0
    assert a.grad.isfinite().all()
