import pytest
import torch
import torch.nn.functional as F

from kdbench.temperature.ttm import TTM
from kdbench.temperature.wttm import WTTM
from tests.helpers.strategy_probe import (
    DEGENERATE,
    assert_survives,
    decide,
    kd,
    near,
    normal,
    objective,
)


@pytest.mark.parametrize(
    ("exponent", "scale", "loss"),
    [
        (0.1, [3.0267595975, 3.1471332600], 0.9307153250),
        (0.25, [2.1309635340, 2.3434133329], 0.3351685110),
        (0.5, [1.4187493145, 1.6288312626], 0.1614070963),
    ],
)
def test_golden_scales_and_losses_of_set_a(set_a, exponent, scale, loss):
    teacher, student, _ = set_a
    found = decide(WTTM(exponent), teacher, student)
    near(found.scale, scale)
    near(kd(teacher, student, found).mean(), loss)


def test_golden_total_of_set_a(set_a):
    near(objective(WTTM(0.1), 1.0, 2.25).from_logits(*set_a).total(), 3.0805670231)


def test_only_the_scale_differs_from_ttm_and_nothing_is_in_the_graph():
    teacher, student = normal(batch=3)
    weighted, plain = (decide(s(0.25), teacher, student.requires_grad_()) for s in (WTTM, TTM))
    assert torch.equal(weighted.teacher, plain.teacher)
    assert torch.equal(weighted.student, plain.student)
    assert not any(tensor.requires_grad for tensor in weighted)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 0.9])
def test_scale_is_the_power_sum_between_one_hot_and_uniform(exponent):
    teacher, student = normal(classes=20)
    teacher[0], teacher[1] = 0, 1e4 * F.one_hot(torch.tensor(3), 20)
    scale = decide(WTTM(exponent), teacher, student).scale
    torch.testing.assert_close(scale, (F.softmax(teacher, 1) ** exponent).sum(1))
    assert scale[0].item() == pytest.approx(20 ** (1 - exponent))
    assert scale[1].item() == 1
    assert (scale >= 1).all()
    assert (scale <= scale[0]).all()


def test_small_probabilities_do_not_underflow_in_float32():
    teacher = torch.tensor([[0.0, -120.0, -120.0, -120.0]])  # exp(-120) is 0 in float32
    scale = decide(WTTM(0.1), teacher, torch.zeros(1, 4)).scale
    exact = decide(WTTM(0.1), teacher.double(), torch.zeros(1, 4).double()).scale
    assert exact.item() > 1 + 1e-5
    torch.testing.assert_close(scale.double(), exact, atol=2e-7, rtol=0)


def test_exponent_one_is_kl_at_temperature_one(set_a):
    teacher, student, _ = set_a
    found = decide(WTTM(1.0), teacher, student)
    near(found.scale, [1.0, 1.0], 1e-12)
    near(kd(teacher, student, found).mean(), 0.3184768783)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("exponent", [0.01, 0.1, 1.0])
def test_survives_degenerate_logits(name, exponent):
    assert_survives(WTTM(exponent), name)


def test_invalid_exponents_are_rejected():
    with pytest.raises(ValueError, match="exponent must be a finite number > 0"):
        WTTM(-0.1)
