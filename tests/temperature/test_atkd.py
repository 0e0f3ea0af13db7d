from typing import get_args

import pytest
import torch

from kdbench.temperature.atkd import ATKD, FACTOR, PEAKS, AtkdMode
from kdbench.temperature.base import Temperatures
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

MODES = list(PEAKS)


def make(mode="both_abs", eps=1e-7, tau_min=1e-3, std_min=1e-6):
    return ATKD(mode=mode, eps=eps, tau_min=tau_min, std_min=std_min)


def standardise(logits):
    """The z-score of the released code, by hand."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def published(mode, teacher_z, student_z):
    """Temperatures of the released rule for standardized logits."""
    with torch.no_grad():
        peak = {
            "both_abs": torch.stack([teacher_z.abs(), student_z.abs()]).amax((0, 2)),
            "teacher_abs": teacher_z.abs().amax(1),
            "teacher_max": teacher_z.amax(1),
        }[mode]
        tau = (1 + 3**0.5) / 2 * peak[:, None]
    return Temperatures(tau, tau, tau[:, 0] ** 2)


@pytest.mark.parametrize(
    ("mode", "base", "loss", "total"),
    [
        ("both_abs", [1.8731648312, 1.8575791477], 0.0822181622, 0.8386092143),
        ("teacher_abs", [1.8731648312, 1.7373647325], 0.0825843899, 0.8419052629),
        ("teacher_max", [1.8731648312, 1.2324895111], 0.0845262411, 0.8593819245),
    ],
)
def test_golden_temperatures_and_losses_of_set_a(set_a, mode, base, loss, total):
    teacher, student, _ = set_a
    found = decide(make(mode), teacher, student)
    near(found.scale.sqrt(), base)
    near(found.teacher[:, 0], found.scale.sqrt() * (teacher.std(1) + 1e-7))
    near(found.student[:, 0], found.scale.sqrt() * (student.std(1) + 1e-7))
    near(kd(teacher, student, found).mean(), loss)
    near(objective(make(mode), 0.1, 9.0).from_logits(*set_a).total(), total)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_equals_the_rule_on_standardized_logits_in_value_and_gradient(mode, size):
    teacher, student = normal(size=size)
    student.requires_grad_()
    scores = standardise(teacher), standardise(student)
    expected = kd(*scores, published(mode, *scores))
    found = kd(teacher, student, decide(make(mode), teacher, student))
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(expected.mean(), student)
    torch.testing.assert_close(kd_gradient(make(mode), teacher, student.detach()), gradient)


@pytest.mark.parametrize("mode", MODES)
def test_invariant_to_affine_maps_of_either_network(mode):
    teacher, student = normal()
    plain = decide(make(mode), teacher, student)
    mapped = (0.5 * teacher + 40, 3 * student - 7)
    found = decide(make(mode), *mapped)
    torch.testing.assert_close(found.scale, plain.scale, atol=1e-5, rtol=0)
    for before, after, who in zip((teacher, student), mapped, ("teacher", "student"), strict=True):
        same = soften(before, getattr(plain, who)), soften(after, getattr(found, who))
        torch.testing.assert_close(*same, atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_bounds_for_rows_that_are_not_constant(classes):
    one_hot = torch.eye(classes, dtype=torch.float64)
    teacher = torch.cat([normal(classes=classes)[0], one_hot, -one_hot])
    student = teacher.flip(0)
    low, high = FACTOR * ((classes - 1) / classes) ** 0.5, FACTOR * (classes - 1) / classes**0.5
    for mode in ("both_abs", "teacher_abs"):
        base = decide(make(mode), teacher, student).scale.sqrt()
        assert (base >= low * (1 - 1e-4)).all()  # eps lowers rows of little spread
        assert (base <= high).all()
        assert base.max().item() == pytest.approx(high, rel=1e-5)
    base = decide(make("teacher_max"), teacher, student).scale.sqrt()
    assert base.min().item() == pytest.approx(FACTOR / classes**0.5, rel=1e-5)
    if classes == 100:
        assert (low, high) == pytest.approx((1.3592, 13.5237), abs=5e-5)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_goes_through_the_z_score_and_not_through_the_choice(mode):
    teacher, student = normal(batch=8)
    found = decide(make(mode), teacher, student.clone().requires_grad_())
    assert found.student.requires_grad
    assert not found.teacher.requires_grad
    assert not found.scale.requires_grad
    # Standardized logits are invariant to scaling, so the gradient has no component along it.
    assert (kd_gradient(make(mode), teacher, student) * student).sum(1).abs().max() < 1e-7


def test_every_mode_has_its_rule():
    assert get_args(AtkdMode) == tuple(PEAKS)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survives_degenerate_logits(name, mode, dtype):
    assert_survives(make(mode), name, dtype)


def test_constant_rows_get_the_named_bound():
    constant = torch.full((2, 10), 0.5)
    found = decide(make(tau_min=0.25), constant, constant)
    torch.testing.assert_close(found.teacher, torch.full((2, 1), 0.25))
    torch.testing.assert_close(found.scale, torch.full((2,), 0.0625))


def test_invalid_values_are_rejected():
    for name in ("eps", "tau_min", "std_min"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: 0.0})
    with pytest.raises(ValueError, match=r"mode must be one of both_abs, .* found 'student'"):
        make("student")
