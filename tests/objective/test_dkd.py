import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.objective.dkd import NCKD, TCKD
from kdbench.objective.kl import KL
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures, uniform
from tests.helpers.outputs import of


def parts(inputs, temperatures):
    return [loss(of(*inputs), temperatures).mean().item() for loss in (TCKD(), NCKD())]


def test_golden_values_of_set_a(set_a):
    tckd, nckd = parts(set_a, uniform(4.0, like=set_a[0]))
    assert tckd == pytest.approx(0.4881908181, abs=1e-9)
    assert nckd == pytest.approx(0.1510383952, abs=1e-9)


def test_golden_values_with_the_temperatures_of_dtkd(set_a):
    teacher_tau = torch.tensor([[16 / 3], [5.0]], dtype=torch.float64)
    student_tau = torch.tensor([[8 / 3], [3.0]], dtype=torch.float64)
    scale = (teacher_tau * student_tau).squeeze(1)
    tckd, nckd = parts(set_a, Temperatures(teacher_tau, student_tau, scale))
    assert tckd == pytest.approx(0.1194532796, abs=1e-9)
    assert nckd == pytest.approx(0.1700914748, abs=1e-9)
    assert tckd + 8 * nckd == pytest.approx(1.4801850778, abs=1e-9)


@pytest.mark.parametrize(("alpha", "beta", "golden"), [(1, 8, 0.5146921034), (9, 72, 4.6322289309)])
def test_golden_values_with_logit_standardization(set_a, alpha, beta, golden):
    teacher_tau, student_tau = (2 * (x.std(1, keepdim=True) + 1e-7) for x in set_a[:2])
    scale = torch.full((2,), 4.0, dtype=torch.float64)
    tckd, nckd = parts(set_a, Temperatures(teacher_tau, student_tau, scale))
    assert alpha * tckd + beta * nckd == pytest.approx(golden, abs=1e-9)


def test_golden_value_with_the_temperatures_of_normkd(set_a):
    teacher_tau, student_tau = (2 * x.std(1, keepdim=True) for x in set_a[:2])
    scale = teacher_tau.square().squeeze(1)
    tckd, nckd = parts(set_a, Temperatures(teacher_tau, student_tau, scale))
    assert 4 * tckd + 5 * nckd == pytest.approx(2.2891152201, abs=1e-9)


def test_golden_target_probabilities(set_a):
    temperatures = uniform(4.0, like=set_a[0])
    kl, tckd, nckd = (loss(of(*set_a), temperatures) for loss in (KL(), TCKD(), NCKD()))
    p_target = 1 - (kl - tckd) / nckd
    assert p_target.tolist() == pytest.approx([0.4596151413, 0.3751518892], abs=1e-9)


def test_golden_totals_of_the_published_objective(set_a):
    objective = build_objective(compose_config(["objective=dkd", "temperature=constant"]))
    full = objective.from_logits(*set_a, at_epoch(20)).terms
    assert full["tckd"].mean() + full["nckd"].mean() == pytest.approx(1.6964979794, abs=1e-9)
    tenth = objective.from_logits(*set_a, at_epoch(9)).total().item()
    assert tenth == pytest.approx(1.8347065315, abs=1e-9)


def at_epoch(epoch):
    return Progress(step=epoch, total_steps=240, epoch=epoch, total_epochs=240)


@settings(deadline=None, derandomize=True)
@given(
    tau=st.floats(0.5, 20),
    seed=st.integers(0, 2**20),
    classes=st.integers(2, 50),
    batch=st.integers(1, 5),
)
def test_the_parts_make_up_the_divergence(tau, seed, classes, batch):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, batch, classes, generator=generator).double()
    targets = torch.randint(classes, (batch,), generator=generator)
    temperatures = uniform(tau, like=teacher)
    arguments = (of(teacher, student, targets), temperatures)
    p_target = (teacher / tau).softmax(1).gather(1, targets[:, None]).squeeze(1)
    tckd, nckd = TCKD()(*arguments), NCKD()(*arguments)
    torch.testing.assert_close(tckd + (1 - p_target) * nckd, KL()(*arguments))
    assert min(tckd.min(), nckd.min()) >= -1e-12


def test_two_classes_leave_nothing_besides_the_target(set_a):
    teacher, student = (x[:, :2].clone().requires_grad_() for x in set_a[:2])
    loss = NCKD()(of(teacher, student, set_a[2]), uniform(4.0, like=teacher))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert not student.grad.any()


def test_the_target_logit_is_outside_of_the_non_target_term(set_a):
    teacher, student, targets = set_a
    student.requires_grad_()
    NCKD()(of(teacher, student, targets), uniform(4.0, like=teacher)).sum().backward()
    assert student.grad.gather(1, targets[:, None]).abs().max() < 1e-15
    assert student.grad.abs().max() > 0.01


@pytest.mark.parametrize("gap", [20.0, 50.0, 500.0, 5000.0])
def test_a_certain_teacher_still_corrects_a_student(gap):
    # ln(1 - q_y) is minus the gap to the only other class, long after q_y has rounded to 1.
    teacher, student = torch.zeros(1, 2), torch.tensor([[gap, 0.0]], requires_grad=True)
    loss = TCKD()(of(teacher, student, torch.tensor([0])), uniform(1.0, like=teacher))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.5 * gap - torch.tensor(2.0).log().item(), rel=1e-5)
    torch.testing.assert_close(student.grad, torch.tensor([[0.5, -0.5]]))
