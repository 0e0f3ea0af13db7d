import pytest
import torch

from kdbench.engine.schedule import CosineDecay, MultiStep, Phases
from kdbench.progress import Progress


def lr_by_epoch(schedule, epochs, lr, steps=10):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    return [
        schedule.apply(optimizer, Progress(e * steps, epochs * steps, e, epochs))
        for e in range(epochs)
    ]


def test_the_cifar_recipe_drops_after_epochs_150_180_and_210():
    found = lr_by_epoch(MultiStep([0.625, 0.75, 0.875], 0.1, 0.0), 240, 0.05)
    expected = [0.05] * 150 + [0.005] * 30 + [0.0005] * 30 + [0.00005] * 30
    assert found == pytest.approx(expected)


def test_cosine_agrees_with_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.001)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), reference.step()
    assert lr_by_epoch(CosineDecay(floor=0.01, warmup=0.0), 20, 0.1) == pytest.approx(expected)


def test_warm_up_grows_from_the_first_step():
    schedule = MultiStep([], 0.1, warmup=0.5)
    factors = [schedule.factor(Progress(step, 8, 0, 1)) for step in range(8)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_every_group_keeps_its_own_base_rate():
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups)
    schedule = MultiStep([0.5], 0.1, 0.0)
    for step in (0, 6, 6):
        schedule.apply(optimizer, Progress(step, 10, 0, 1))
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.001])


def test_invalid_values_are_rejected():
    with pytest.raises(ValueError, match="warmup must lie in"):
        MultiStep([], 0.1, warmup=5)
    with pytest.raises(ValueError, match=r"milestones\[0\] must lie in"):
        MultiStep([150], 0.1, warmup=0.0)


def phases():
    return Phases(0.5, MultiStep([0.5, 0.75], 0.1, 0.0), MultiStep([0.5], 0.1, 0.0))


def test_each_phase_has_its_own_schedule():
    found = lr_by_epoch(phases(), 8, 1.0)
    assert found == pytest.approx([1, 1, 0.1, 0.01, 1, 1, 0.1, 0.1])


def test_the_second_phase_has_a_fresh_optimizer():
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    schedule, momenta = phases(), []
    for step in range(8):
        schedule.apply(optimizer, Progress(step, 8, step, 8))
        momenta.append(bool(optimizer.state))
        weight.grad = torch.ones(1)
        optimizer.step()
    assert momenta == [False, True, True, True, False, True, True, True]
