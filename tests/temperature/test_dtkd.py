import pytest
import torch

from kdbench.objective.kl import KL
from kdbench.objective.objective import Objective, Term
from kdbench.objective.ramp import LinearRamp
from kdbench.temperature.base import Temperatures
from kdbench.temperature.constant import Constant
from kdbench.temperature.dtkd import DTKD
from tests.helpers.strategy_probe import (
    DEGENERATE,
    assert_survives,
    at_epoch,
    decide,
    kd,
    kd_gradient,
    near,
    normal,
)


def make(tau=4.0, tau_min=0.01):
    return DTKD(tau=tau, tau_min=tau_min)


def maxima(teacher, student):
    """Rows whose maxima are the given numbers."""
    below = -torch.arange(10.0)
    rows = torch.tensor(teacher)[:, None] + below, torch.tensor(student)[:, None] + below
    found = decide(make(), *rows)
    return found.teacher[:, 0].tolist(), found.student[:, 0].tolist()


def test_golden_temperatures_and_loss_of_set_a(set_a):
    teacher, student, _ = set_a
    found = decide(make(), teacher, student)
    near(found.student[:, 0], [2.6666666667, 3.0])
    near(found.teacher[:, 0], [5.3333333333, 5.0])
    near(found.scale, [2.6666666667 * 5.3333333333, 15.0])
    near(kd(teacher, student, found).mean(), 0.2213588222)


@pytest.mark.parametrize(
    ("epoch", "golden"), [(1, 1.0485543891), (10, 1.6074260153), (20, 2.2283944889)]
)
def test_golden_totals_of_the_papers_objective(set_a, epoch, golden):
    terms = {
        "dynamic": Term(loss=KL(), weight=3.0, ramp=LinearRamp(20)),
        "constant": Term(loss=KL(), weight=1.0, ramp=LinearRamp(20), strategy=Constant(4.0)),
    }
    objective = Objective("dtkd", 1.0, terms, make())
    near(objective.from_logits(*set_a, at_epoch(epoch - 1)).total(), golden)


@pytest.mark.parametrize(
    ("detach", "golden"),
    [
        (
            False,
            [
                [-0.1098190420, 0.2082972730, -0.0332743358, -0.0900539440],
                [0.0804617106, -0.1908148264, 0.1519655535, 0.0071804343],
            ],
        ),
        (
            True,
            [
                [-0.0849689932, 0.2082972730, -0.0332743358, -0.0900539440],
                [0.0804617106, -0.1908148264, 0.1031726816, 0.0071804343],
            ],
        ),
    ],
)
def test_golden_gradients_with_and_without_the_students_maximum(set_a, detach, golden):
    near(kd_gradient(make(), *set_a[:2], detach=detach), golden)


def test_all_three_outputs_are_in_the_graph():
    teacher, student = normal(batch=3)
    found = decide(make(), teacher, student.requires_grad_())
    assert all(tensor.requires_grad for tensor in found)


def test_equal_maxima_are_distillation_at_tau():
    teacher, student = normal()
    student += (teacher.amax(1) - student.amax(1))[:, None]
    found = decide(make(), teacher, student)
    torch.testing.assert_close(found.student, torch.full_like(found.student, 4.0))
    expected = kd(teacher, student, decide(Constant(4.0), teacher, student))
    torch.testing.assert_close(kd(teacher, student, found), expected)


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_the_bound_does_not_touch_maxima_of_one_sign(sign):
    teacher, student = normal()
    if sign == "negative":
        teacher, student = teacher - 30, student - 30
    student.requires_grad_()
    x, m = teacher.amax(1, keepdim=True), student.amax(1, keepdim=True)
    assert (x * m > 0).all()
    published = Temperatures(
        8 * x / (x + m), 8 * m / (x + m), (64 * x * m / (x + m) ** 2).squeeze(1)
    )
    expected = kd(teacher, student, published)
    found = decide(make(), teacher, student)
    torch.testing.assert_close(found, published)
    torch.testing.assert_close(kd(teacher, student, found), expected)
    (gradient,) = torch.autograd.grad(expected.mean(), student)
    torch.testing.assert_close(kd_gradient(make(), teacher, student.detach()), gradient)


def test_maxima_of_opposite_sign_or_zero_are_bounded():
    hot, cold = pytest.approx(7.99), pytest.approx(0.01, abs=1e-6)
    found = maxima([2.0, 2.0, 2.0, 2.0, -1.0, 0.0], [-1.0, -2.0, -9.0, 0.0, 3.0, 0.0])
    assert found[0] == [hot, hot, hot, hot, cold, 4.0]
    assert found[1] == [cold, cold, cold, cold, hot, 4.0]


def test_the_bounded_temperatures_continue_the_published_ones():
    above, below = maxima([2.0], [0.003]), maxima([2.0], [-0.003])
    assert above[1] == pytest.approx([8 * 0.003 / 2.003], rel=1e-4)
    assert below[1] == pytest.approx([0.01], rel=1e-4)


def test_no_gradient_through_bounded_temperatures():
    teacher, student = normal(batch=4)
    student -= 30
    bounded = kd_gradient(make(), teacher, student)
    torch.testing.assert_close(bounded, kd_gradient(make(), teacher, student, detach=True))


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survives_degenerate_logits(name, dtype):
    assert_survives(make(), name, dtype)


def test_invalid_values_are_rejected():
    for name in ("tau", "tau_min"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: 0.0})
    with pytest.raises(ValueError, match="tau_min must be below tau, found tau_min=4"):
        make(tau_min=4.0)
