import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.config.compose import compose_config
from kdbench.objective.ckd import CKD
from kdbench.objective.mse import MSE
from kdbench.temperature.base import Temperatures, uniform
from tests.helpers.outputs import of


def over_all_pairs(teacher, student, temperatures):
    """The published form, O(B^2)."""
    u_t, u_s = teacher / temperatures.teacher, student / temperatures.student
    of_teacher, of_student = (u[:, None] - u[None, :] for u in (u_t, u_s))
    return temperatures.scale.mean() * (of_student - of_teacher).square().mean()


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), classes=st.integers(1, 20), batch=st.integers(1, 12))
def test_equals_the_form_over_all_pairs(seed, classes, batch):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, batch, classes, generator=generator).double()
    taus = 0.5 + 5 * torch.rand(2, batch, 1, generator=generator).double()
    temperatures = Temperatures(*taus, torch.rand(batch, generator=generator).double())
    gradients = []
    for form in (
        over_all_pairs,
        lambda t, s, tau: CKD()(of(t, s, None), tau).mean(),
    ):
        leaf = student.clone().requires_grad_()
        value = form(teacher, leaf, temperatures)
        gradients += [value.detach(), *torch.autograd.grad(value, leaf)]
    torch.testing.assert_close(gradients[2:], gradients[:2])


def test_value_by_hand():
    # errors 0, 1 and 5 of a single class: (1 + 25 + 16) * 2 ordered pairs of 9
    teacher, student = torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [5.0]])
    found = CKD()(of(teacher, student, None), uniform(1.0, like=teacher))
    torch.testing.assert_close(found, torch.full((3,), 84 / 9))


def test_a_common_offset_is_free(set_a3):
    teacher, student, targets = set_a3
    temperatures = uniform(1.0, like=teacher)
    offset = torch.tensor([5.0, -3.0, 2.0, 0.5], dtype=torch.float64)
    found = CKD()(of(teacher, student, targets), temperatures)
    torch.testing.assert_close(CKD()(of(teacher, student + offset, targets), temperatures), found)
    assert CKD()(of(teacher, teacher + offset, targets), temperatures).abs().max() < 1e-12


def test_centred_errors_cost_twice_their_regression(set_a3):
    teacher, student, targets = set_a3
    centred = student - (student - teacher).mean(0)
    temperatures = uniform(4.0, like=teacher)
    found = CKD()(of(teacher, student, targets), temperatures)
    regression = MSE()(of(teacher, centred, targets), temperatures).mean()
    assert found.mean().item() == pytest.approx(2 * regression.item(), rel=1e-12)


def test_weights_of_the_objective():
    objective = compose_config(["objective=ckd"]).objective
    assert (objective.ce_weight, objective.terms.ckd.weight) == (1.0, 1.0)
