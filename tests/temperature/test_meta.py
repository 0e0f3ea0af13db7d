import io
import math

import pytest
import torch

from kdbench.objective.kl import KL
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures
from kdbench.temperature.meta import Meta, look_ahead
from tests.helpers.outputs import of

PROGRESS = Progress(0, 10, 0, 1)


def make(**values):
    defaults = {"teacher_init": 3.0, "student_init": 2.0, "tau_min": 1.0, "tau_max": 10.0}
    return Meta(**{**defaults, "inner_lr": 1.0, "meta_lr": 0.5, **values})


def take_step(strategy, teacher, student, targets):
    student = student.detach().requires_grad_()
    found = strategy(of(teacher, student, targets), PROGRESS)
    strategy.observe(of(teacher, student.detach(), targets), PROGRESS)
    return found


def tau_of(strategy):
    return strategy.log_tau.detach().exp().tolist()


def test_golden(set_a):
    teacher, student, targets = set_a
    pair = torch.tensor([[3.0], [2.0]], dtype=torch.float64).expand(2, 2)[..., None]
    temperatures = Temperatures(*pair, torch.ones(2, dtype=torch.float64))
    inner = KL()(of(teacher, student, targets), temperatures).mean()
    assert inner.item() == pytest.approx(0.0445067261, abs=1e-9)
    tau = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    ce = look_ahead(of(teacher, student, targets), tau, step=1.0)
    assert ce.item() == pytest.approx(0.9564469608, abs=1e-9)
    (gradient,) = torch.autograd.grad(ce, tau)
    assert gradient.tolist() == pytest.approx([0.0107749199, 0.0157203915], abs=1e-9)


def test_gradient_is_that_of_finite_differences(set_a):
    tau = torch.tensor([2.5, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tau: look_ahead(of(*set_a), tau, step=0.7), tau)


def test_a_step_follows_the_gradient_in_the_logarithms(set_a):
    strategy = make().double()
    take_step(strategy, *set_a)
    expected = [3 * math.exp(-0.5 * 3 * 0.0107749199), 2 * math.exp(-0.5 * 2 * 0.0157203915)]
    assert tau_of(strategy) == pytest.approx(expected, abs=1e-6)  # they start as float32


@pytest.mark.parametrize("seed", range(5))
def test_steps_lower_the_cross_entropy_after_the_look_ahead(seed):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, 16, 10, generator=generator)
    targets = torch.randint(10, (16,), generator=generator)
    strategy = make(meta_lr=0.1, inner_lr=5.0)
    reached = []
    for _ in range(5):
        tau = strategy.log_tau.detach().exp()
        reached.append(look_ahead(of(teacher, student, targets), tau, step=5.0).item())
        take_step(strategy, teacher, student, targets)
    assert reached == sorted(reached, reverse=True)
    assert reached[0] > reached[-1]


def test_temperatures_are_the_same_for_all_samples_and_carry_no_gradient(set_a):
    found = take_step(make(), *set_a)
    assert found.teacher.flatten().tolist() == pytest.approx([3.0, 3.0])
    assert found.student.flatten().tolist() == pytest.approx([2.0, 2.0])
    assert found.scale.tolist() == pytest.approx([6.0, 6.0])
    assert not any(tensor.requires_grad for tensor in found)


def test_batches_without_gradient_are_not_learned_from(set_a):
    teacher, student, targets = set_a
    strategy = make()
    strategy(of(teacher, student, targets), PROGRESS)
    strategy.observe(of(teacher, student, targets), PROGRESS)
    assert tau_of(strategy) == pytest.approx([3.0, 2.0])


def test_bounds_hold_and_can_be_left_again(set_a):
    teacher, student, targets = set_a
    strategy = make(meta_lr=1e4)
    take_step(strategy, teacher, student, targets)
    assert tau_of(strategy) == pytest.approx([1.0, 1.0])
    strategy.meta_lr = 0.5
    take_step(strategy, -teacher, student, targets)  # a teacher that is wrong: step less
    assert tau_of(strategy)[1] > 1.001


def test_a_restart_changes_no_bit(set_a):
    strategy, other = make(), make()
    take_step(strategy, *set_a)
    buffer = io.BytesIO()
    torch.save(strategy.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for candidate in (strategy, other):
        take_step(candidate, *set_a)
    assert torch.equal(strategy.log_tau, other.log_tau)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "logits", [torch.zeros(5), 1e4 * torch.arange(5.0), torch.full((5,), -7.0)]
)
def test_degenerate_batches_leave_everything_finite(size, logits):
    strategy = make()
    rows = logits.expand(size, 5)
    for student in (rows, rows.flip(1)):
        found = take_step(strategy, rows, student, torch.zeros(size).long())
        assert all(tensor.isfinite().all() for tensor in found)
        assert strategy.log_tau.isfinite().all()


@pytest.mark.parametrize(
    "values",
    [
        {"teacher_init": 0.5},
        {"student_init": 11.0},
        {"tau_min": 0.0},
        {"inner_lr": 0.0},
        {"meta_lr": -1.0},
        {"tau_max": math.inf},
    ],
)
def test_invalid_values_are_rejected(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        make(**values)
