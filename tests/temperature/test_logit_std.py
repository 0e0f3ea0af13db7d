import pytest
import torch
import torch.nn.functional as F

from kdbench.temperature.base import Temperatures
from kdbench.temperature.logit_std import LogitStandardization, spread
from tests.helpers.strategy_probe import (
    DEGENERATE,
    assert_survives,
    decide,
    kd,
    kd_gradient,
    near,
    normal,
    objective,
)


def make(tau=2.0, form="code", eps=1e-7, std_min=1e-6):
    return LogitStandardization(tau=tau, form=form, eps=eps, std_min=std_min)


def standardise(logits):
    """The z-score of the released code, by hand."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def by_hand(teacher, student, tau=2.0):
    tau = torch.full_like(student[:, :1], tau).detach()
    return kd(
        standardise(teacher), standardise(student), Temperatures(tau, tau, tau[:, 0].square())
    )


def test_golden_temperatures_and_losses_of_set_a(set_a):
    teacher, student, _ = set_a
    found = decide(make(), teacher, student)
    near(found.teacher[:, 0], [2 * (2.0966242709 + 1e-7), 2 * (2.2998188334 + 1e-7)])
    near(found.student[:, 0], [2 * (1.1902380714 + 1e-7), 2 * (1.2685293322 + 1e-7)])
    assert found.scale.tolist() == [4.0, 4.0]
    near(kd(teacher, student, found).mean(), 0.0819029635)
    near(objective(make(), 0.1, 9.0).from_logits(*set_a).total(), 0.8357724252)


def test_golden_losses_of_the_papers_form(set_a):
    teacher, student, _ = set_a
    strategy = make(form="paper")
    found = decide(strategy, teacher, student)
    near(kd(teacher, student, found).mean(), 0.1099377534)
    near(objective(strategy, 0.1, 9.0).from_logits(*set_a).total(), 1.0880855349)
    code = decide(make(), teacher, student)
    torch.testing.assert_close(found.student, code.student * 0.75**0.5, atol=2e-7, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_equals_standardized_logits_in_value_and_gradient(size):
    teacher, student = normal(size=size)
    student.requires_grad_()
    expected = by_hand(teacher, student)
    torch.testing.assert_close(kd(teacher, student, decide(make(), teacher, student)), expected)
    (gradient,) = torch.autograd.grad(expected.mean(), student)
    torch.testing.assert_close(kd_gradient(make(), teacher, student.detach()), gradient)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_invariant_to_affine_maps_of_either_network(form):
    teacher, student = normal()
    plain = kd(teacher, student, decide(make(form=form), teacher, student))
    for pair in [(teacher, 3 * student - 7), (0.5 * teacher + 40, student)]:
        mapped = kd(*pair, decide(make(form=form), *pair))
        torch.testing.assert_close(mapped, plain, atol=1e-6, rtol=0)


def test_golden_size_of_the_effect_of_eps(set_a):
    teacher, student, _ = set_a
    losses = [kd(teacher, z, decide(make(), teacher, z)).mean() for z in (student, 3 * student - 7)]
    assert abs(losses[1] - losses[0]).item() == pytest.approx(2.3e-9, rel=0.03)


def test_gradient_goes_through_the_student_only():
    teacher, student = normal(batch=8)
    found = decide(make(), teacher, student.clone().requires_grad_())
    assert found.student.requires_grad
    assert not found.teacher.requires_grad
    assert not found.scale.requires_grad
    # Shifting or scaling a row does not change the loss, so the gradient has no such component.
    gradient = kd_gradient(make(), teacher, student)
    assert gradient.sum(1).abs().max() < 1e-12
    assert (gradient * student).sum(1).abs().max() < 1e-7
    assert (kd_gradient(make(), teacher, student, detach=True) * student).sum(1).abs().max() > 1e-3


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survives_degenerate_logits(name, form, dtype):
    assert_survives(make(form=form), name, dtype)


def test_a_row_without_spread_is_distilled_at_tau():
    teacher = normal(batch=2)[0]
    student = torch.full_like(teacher, 0.7)
    found = decide(make(form="paper"), teacher, student)
    assert found.student.tolist() == [[2.0], [2.0]]
    p = F.softmax(teacher / found.teacher, 1)
    expected = 2 * (0.1 - p) / 2  # tau (q - p), over the batch
    torch.testing.assert_close(kd_gradient(make(form="paper"), teacher, student), expected)


def test_spread_is_the_standard_deviation_down_to_its_bound():
    rows = normal(batch=64)[0] * torch.logspace(-6, 4, 64, dtype=torch.float64)[:, None]
    for correction in (0, 1):
        expected = rows.std(1, correction=correction, keepdim=True)
        found = spread(rows, 1e-7, correction)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert spread(rows[:1], std_min=1.0).tolist() == [[1.0]]


def test_invalid_values_are_rejected():
    for name in ("tau", "eps", "std_min"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: 0.0})
    with pytest.raises(ValueError, match="form must be one of code, paper, found 'book'"):
        make(form="book")
