import pytest
import torch
import torch.nn.functional as F

from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.objective.dkd import NCKD
from kdbench.objective.nkd import NKDNonTarget, NKDTarget
from kdbench.temperature.base import uniform
from tests.helpers.outputs import of

CE = 0.9864575418


def value(loss, inputs, tau):
    return loss(of(*inputs), uniform(tau, like=inputs[0])).mean().item()


def test_golden_values_of_set_a(set_a):
    assert value(NKDTarget(), set_a, 1.0) == pytest.approx(0.6862726409, abs=1e-9)
    assert value(NKDNonTarget(), set_a, 1.0) == pytest.approx(0.7053540163, abs=1e-9)
    assert value(NKDNonTarget(), set_a, 3.0) == pytest.approx(9.1282292741, abs=1e-9)


@pytest.mark.parametrize(
    ("tau", "weight", "golden"), [(1, 1.5, 1.7443036654), (3, 3.5, 32.6350751001)]
)
def test_golden_totals_of_the_published_objectives(set_a, tau, weight, golden):
    weighted = f"objective.terms.nkd_non_target.weight={weight}"
    cfg = compose_config(
        ["objective=nkd", "temperature=constant", f"temperature.tau={tau}", weighted]
    )
    found = build_objective(cfg).from_logits(*set_a)
    assert found.total().item() == pytest.approx(CE + golden, abs=1e-9)
    # the target stays at temperature 1 whatever the temperature group says
    assert found.terms["nkd_target"].mean().item() == pytest.approx(0.6862726409, abs=1e-9)


def test_the_weight_in_the_file_is_that_of_cifar():
    assert compose_config(["objective=nkd"]).objective.terms.nkd_non_target.weight == 3.5


def test_with_a_certain_teacher_it_is_cross_entropy(set_a):
    teacher, student, targets = set_a
    sure = 200 * F.one_hot(targets, 4).double()
    found = NKDTarget()(of(sure, student, targets), uniform(1.0, like=teacher))
    torch.testing.assert_close(found, F.cross_entropy(student, targets, reduction="none"))


def test_the_non_target_gradient_equals_that_of_dkd(set_a):
    teacher, student, targets = set_a
    gradients = []
    for loss in (NKDNonTarget(), NCKD()):
        leaf = student.clone().requires_grad_()
        loss(of(teacher, leaf, targets), uniform(3.0, like=teacher)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_the_non_target_part_is_an_entropy_at_equality(set_a):
    teacher, _, targets = set_a
    leaf = teacher.clone().requires_grad_()
    loss = NKDNonTarget()(of(teacher, leaf, targets), uniform(1.0, like=teacher))
    loss.sum().backward()
    others = torch.stack(
        [row[torch.arange(4) != y] for row, y in zip(teacher, targets, strict=True)]
    )
    torch.testing.assert_close(loss, torch.distributions.Categorical(logits=others).entropy())
    assert leaf.grad.abs().max() < 1e-15
