import pytest
import torch
import torch.nn.functional as F

from kdbench.temperature.base import Temperatures
from kdbench.temperature.cswt import CSWT
from tests.helpers.strategy_probe import DEGENERATE, assert_survives, decide, near, normal


def make(low=2.0, high=6.0, eps=1e-8, span_min=1e-6):
    return CSWT(low=low, high=high, eps=eps, span_min=span_min)


def set_a3(set_a):
    """Set A with a third sample."""
    thirds = torch.tensor([[-0.5, 0.3, 1.0, 2.2], [0.1, -0.4, 0.9, 0.6]], dtype=torch.float64)
    return [torch.cat([z, third[None]]) for z, third in zip(set_a[:2], thirds, strict=True)]


def similarities(teacher, student):
    p, q = F.softmax(teacher, 1), F.softmax(student, 1)
    return (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1) + 1e-8)


def test_golden_temperatures_of_set_a(set_a):
    found = decide(make(), *set_a[:2])
    near(found.teacher[:, 0], [2.0, 6.0])
    near(found.scale, [16.0, 16.0])
    near(similarities(*set_a[:2]), [0.8753103769, 0.8100516771])


def test_golden_temperatures_of_set_a3(set_a):
    teacher, student = set_a3(set_a)
    found = decide(make(), teacher, student)
    near(found.teacher[:, 0], [2.0, 4.7191271047, 6.0])
    near(found.scale, [(12.7191271047 / 3) ** 2] * 3)


def class_cosine_loss(teacher, student, found):
    """The paper's loss: a T^2 (1 - mean over classes of the cosine of columns), a = 2."""
    p, q = F.softmax(teacher / found.teacher, 1), F.softmax(student / found.student, 1)
    cosine = (p * q).sum(0) / (p.norm(dim=0) * q.norm(dim=0) + 1e-8)
    return 2 * found.scale.mean() * (1 - cosine.mean())


def test_golden_class_cosine_losses(set_a):
    near(class_cosine_loss(*set_a[:2], decide(make(), *set_a[:2])), 1.1789721632)
    teacher, student = set_a3(set_a)
    near(class_cosine_loss(teacher, student, decide(make(), teacher, student)), 1.4575310768)


def test_both_ends_are_reached_and_disagreement_is_hot():
    teacher, student = normal()
    found = decide(make(), teacher, student).teacher[:, 0]
    assert (found.min(), found.max()) == (2.0, 6.0)
    order = similarities(teacher, student).argsort(descending=True)
    assert (found[order].diff() >= -1e-6).all()


def test_the_bound_does_not_touch_batches_with_a_ranking():
    teacher, student = normal()
    s = similarities(teacher, student)
    tau = 2 + 4 * (s.max() - s) / (s.max() - s.min())
    scale = torch.full_like(tau, tau.mean() ** 2)
    published = Temperatures(tau[:, None], tau[:, None], scale)
    torch.testing.assert_close(decide(make(), teacher, student), published)


def test_nothing_is_in_the_graph():
    teacher, student = normal(batch=3)
    found = decide(make(), teacher, student.requires_grad_())
    assert not any(tensor.requires_grad for tensor in found)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_similarities_get_the_middle(batch, dtype):
    teacher, student = (z[:1].repeat(batch, 1).to(dtype) for z in normal())
    found = decide(make(), teacher, student)
    assert found.teacher.tolist() == [[4.0]] * batch
    assert found.scale.tolist() == [16.0] * batch


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survives_degenerate_logits(name, dtype):
    assert_survives(make(), name, dtype)


def test_invalid_values_are_rejected():
    for name in ("low", "high", "eps", "span_min"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: 0.0})
    with pytest.raises(ValueError, match="low must not exceed high, found low=7"):
        make(low=7.0)
