import pytest
import torch
import torch.nn.functional as F

from kdbench.temperature.base import Temperatures
from kdbench.temperature.ttm import TTM
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


@pytest.mark.parametrize(
    ("exponent", "golden"), [(0.1, 0.3017043945), (0.25, 0.1498029596), (0.5, 0.1047786881)]
)
def test_golden_losses_of_set_a(set_a, exponent, golden):
    teacher, student, _ = set_a
    near(kd(teacher, student, decide(TTM(exponent), teacher, student)).mean(), golden)


def test_golden_samples_and_total_of_set_a(set_a):
    teacher, student, _ = set_a
    found = kd(teacher, student, decide(TTM(0.25), teacher, student))
    near(found, [0.1495105377, 0.1500953815])
    near(objective(TTM(0.1), 1.0, 45.0).from_logits(*set_a).total(), 14.5631552941)


def test_temperatures_are_the_same_for_all_and_detached():
    teacher, student = normal(batch=3)
    found = decide(TTM(0.25), teacher, student.requires_grad_())
    assert found.teacher.tolist() == [[4.0]] * 3
    assert found.student.tolist() == [[1.0]] * 3
    assert found.scale.tolist() == [1.0] * 3
    assert not any(tensor.requires_grad for tensor in found)


def test_the_teacher_is_a_power_of_its_probabilities():
    teacher, student = normal()
    powers = F.softmax(teacher, 1) ** 0.3
    expected = (powers / powers.sum(1, keepdim=True)).log()
    temperature = decide(TTM(0.3), teacher, student).teacher
    torch.testing.assert_close(F.log_softmax(teacher / temperature, 1), expected)


def test_gradient_is_student_minus_transformed_teacher():
    teacher, student = normal(batch=5)
    expected = (F.softmax(student, 1) - F.softmax(0.3 * teacher, 1)) / 5
    torch.testing.assert_close(kd_gradient(TTM(0.3), teacher, student), expected)


def test_exponent_one_is_kl_at_temperature_one(set_a):
    teacher, student, _ = set_a
    near(kd(teacher, student, decide(TTM(1.0), teacher, student)).mean(), 0.3184768783)


@pytest.mark.parametrize("exponent", [0.1, 0.25, 0.5])
def test_renyi_identity(set_a, exponent):
    """D(p_hat || q) = T D(p_hat || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_hat)."""
    teacher, student, _ = set_a
    tau = 1 / exponent
    found = decide(TTM(exponent), teacher, student)
    cooled = Temperatures(found.teacher, found.teacher, found.scale)
    log_q, p_hat = F.log_softmax(student, 1), F.softmax(exponent * teacher, 1)
    renyi = (exponent * log_q).logsumexp(1) / (1 - exponent)
    shannon = -(p_hat * p_hat.log()).sum(1)
    expected = tau * kd(teacher, student, cooled) - (tau - 1) * renyi + (tau - 1) * shannon
    torch.testing.assert_close(kd(teacher, student, found), expected, atol=1e-12, rtol=0)
    if exponent == 0.25:
        near(renyi, [1.2752330276, 1.2802213840])


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("exponent", [0.01, 0.1, 1.0])
def test_survives_degenerate_logits(name, exponent):
    assert_survives(TTM(exponent), name)


def test_invalid_exponents_are_rejected():
    with pytest.raises(ValueError, match="exponent must be a finite number > 0"):
        TTM(0.0)
    with pytest.raises(ValueError, match=r"exponent must lie in \[0, 1\], found 1.5"):
        TTM(1.5)
