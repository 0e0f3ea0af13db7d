import pytest
import torch

from kdbench.temperature.base import Temperatures
from kdbench.temperature.logit_std import LogitStandardization
from kdbench.temperature.normkd import NormKD
from kdbench.temperature.soften import soften
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


def make(tau=2.0, std_min=1e-6):
    return NormKD(tau=tau, std_min=std_min)


def test_golden_temperatures_and_losses_of_set_a(set_a):
    teacher, student, _ = set_a
    found = decide(make(), teacher, student)
    near(found.teacher[:, 0], [4.1932485418, 4.5996376669])
    near(found.student[:, 0], [2.3804761428, 2.5370586644])
    torch.testing.assert_close(found.scale, found.teacher[:, 0] ** 2)
    near(kd(teacher, student, found).mean(), 0.3926054671)
    near(objective(make(), 0.1, 0.9).from_logits(*set_a).total(), 0.4519906746)


@pytest.mark.parametrize(
    ("detach", "golden"),
    [
        (
            False,
            [
                [-0.2487268914, 0.3349211163, 0.0098557831, -0.0960500079],
                [0.1322786293, -0.3631012235, 0.1913163407, 0.0395062536],
            ],
        ),
        (
            True,
            [
                [-0.2339409822, 0.3437926618, -0.0049301262, -0.1049215535],
                [0.1314005962, -0.3464185959, 0.2360960253, -0.0210780256],
            ],
        ),
    ],
)
def test_golden_gradients_with_and_without_the_students_deviation(set_a, detach, golden):
    near(kd_gradient(make(), *set_a[:2], detach=detach), golden)


def test_softmaxes_are_those_of_logit_standardization():
    teacher, student = normal()
    standardised = LogitStandardization(tau=2.0, form="code", eps=1e-7, std_min=1e-6)
    ours, theirs = (decide(strategy, teacher, student) for strategy in (make(), standardised))
    for logits, who in [(teacher, "teacher"), (student, "student")]:
        found, expected = (soften(logits, getattr(t, who)) for t in (ours, theirs))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_bound_does_not_touch_rows_with_spread(size):
    teacher, student = normal(size=size)
    student.requires_grad_()
    teacher_tau, student_tau = (2 * z.std(1, keepdim=True) for z in (teacher, student))
    published = Temperatures(teacher_tau, student_tau, teacher_tau[:, 0] ** 2)
    expected = kd(teacher, student, published)
    torch.testing.assert_close(kd(teacher, student, decide(make(), teacher, student)), expected)
    (gradient,) = torch.autograd.grad(expected.mean(), student)
    torch.testing.assert_close(kd_gradient(make(), teacher, student.detach()), gradient)


def test_gradient_goes_through_the_students_temperature_alone():
    teacher, student = normal(batch=3)
    found = decide(make(), teacher, student.requires_grad_())
    assert found.student.requires_grad
    assert not found.teacher.requires_grad
    assert not found.scale.requires_grad


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survives_degenerate_logits(name, dtype):
    assert_survives(make(), name, dtype)


def test_a_row_without_spread_gets_tau():
    zeros = torch.zeros(2, 10)
    found = decide(make(tau=3.0), zeros, zeros)
    assert found.teacher.tolist() == found.student.tolist() == [[3.0], [3.0]]


def test_invalid_values_are_rejected():
    for name in ("tau", "std_min"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: -1.0})
