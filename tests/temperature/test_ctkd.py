import pytest
import torch
from torch import nn

from kdbench.temperature.base import Temperatures
from kdbench.temperature.ctkd import CTKD, reverse_gradient
from tests.helpers.strategy_probe import (
    DEGENERATE,
    assert_survives,
    at_epoch,
    decide,
    kd,
    kd_gradient,
    near,
    normal,
    objective,
)

STRENGTHS = [
    0.0244717419,
    0.0954915028,
    0.2061073739,
    0.3454915028,
    0.5,
    0.6545084972,
    0.7938926261,
    0.9045084972,
    0.9755282581,
    1.0,
]
NEVER = 10**12  # loops so many that lambda is 0 in the first epochs


def make(mode="global", loops=10, weight_decay=5e-4, classes=4, **changes):
    values = {"tau_min": 1.0, "tau_range": 20.0, "theta_init": 1.0, "hidden": 16} | changes
    torch.manual_seed(0)
    return CTKD(
        mode=mode, loops=loops, weight_decay=weight_decay, num_classes=classes, **values
    ).double()


def total(strategy, set_a, epoch):
    """The loss of the paper's CIFAR-100 recipe in a 1-based epoch."""
    return objective(strategy, 0.1, 0.9).from_logits(*set_a, at_epoch(epoch - 1)).total()


def test_golden_temperature_and_losses_of_set_a(set_a):
    teacher, student, _ = set_a
    found = decide(make(), teacher, student)
    near(found.teacher[:, 0], [15.6211715726] * 2)
    assert torch.equal(found.teacher, found.student)
    near(found.scale, [15.6211715726**2] * 2, 1e-8)
    near(kd(teacher, student, found).mean(), 0.5651611910)
    near(total(make(), set_a, 1), 0.6072908261)


@pytest.mark.parametrize(
    ("epoch", "gradient", "free", "decayed"),
    [
        (1, 0.000077581804, 0.999996120910, 0.999971120910),
        (5, 0.001585130397, 0.999920743480, 0.999895743480),
        (10, 0.003170260795, 0.999841486960, 0.999816486960),
        (11, 0.003170260795, 0.999841486960, 0.999816486960),
    ],
)
def test_golden_gradient_and_first_step_of_theta(set_a, epoch, gradient, free, decayed):
    for weight_decay, after in [(0.0, free), (5e-4, decayed)]:
        strategy = make(weight_decay=weight_decay)
        optimizer = torch.optim.SGD(
            strategy.param_groups(), lr=0.05, momentum=0.9, weight_decay=0.7
        )
        total(strategy, set_a, epoch).backward()
        near(strategy.theta.grad, gradient, 1e-11)
        optimizer.step()
        near(strategy.theta, after, 1e-11)


def test_the_gradient_before_its_reversal_includes_the_squared_temperature(set_a):
    teacher, student, _ = set_a
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    tau = (1 + 20 * theta.sigmoid()).expand(2, 1)
    (0.9 * kd(teacher, student, Temperatures(tau, tau, tau[:, 0] ** 2)).mean()).backward()
    near(theta.grad, -0.003170260795, 1e-11)


def test_lambda_counts_epochs_from_one():
    assert [make().strength_at(e) for e in range(10)] == pytest.approx(STRENGTHS, abs=1e-10)
    assert [make(loops=5).strength_at(e) for e in (4, 5, 239)] == [1.0, 1.0, 1.0]


def test_a_float32_parameter_is_used_in_the_dtype_of_the_logits(set_a):
    found = decide(make().float(), *set_a[:2])
    near(found.teacher[:, 0], [15.6211715726] * 2)


@pytest.mark.parametrize("mode", ["global", "instance"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_reversed_gradient_only_decay_moves_the_parameters(set_a, mode, weight_decay):
    strategy = make(mode, loops=NEVER, weight_decay=weight_decay)
    assert strategy.strength_at(0) == 0
    before = [p.clone() for p in strategy.parameters()]
    optimizer = torch.optim.SGD(strategy.param_groups(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        total(strategy, set_a, 1).backward()
        optimizer.step()
    for now, then in zip(strategy.parameters(), before, strict=True):
        torch.testing.assert_close(now, then * (1 - 0.05 * weight_decay) ** 3)


@pytest.mark.parametrize("mode", ["global", "instance"])
def test_a_step_along_the_reversed_gradient_raises_the_loss(set_a, mode):
    strategy = make(mode, weight_decay=0.0)
    optimizer = torch.optim.SGD(strategy.param_groups(), lr=0.05)
    before = total(strategy, set_a, 10)
    before.backward()
    assert all(p.grad.abs().sum() > 0 for p in strategy.parameters())
    optimizer.step()
    assert total(strategy, set_a, 10) > before


@pytest.mark.parametrize("mode", ["global", "instance"])
def test_the_student_sees_the_temperature_as_a_constant(set_a, mode):
    teacher, student, _ = set_a
    found = decide(make(mode), teacher, student.clone().requires_grad_())
    assert all(tensor.requires_grad for tensor in found)  # towards the strategy's parameters
    direct = kd_gradient(make(mode), teacher, student, detach=True)
    torch.testing.assert_close(kd_gradient(make(mode), teacher, student), direct)


def test_the_reversal_is_an_exact_identity_forward():
    value = normal()[0].requires_grad_()
    reversed_ = reverse_gradient(value, 0.3)
    assert torch.equal(reversed_, value)
    (3 * reversed_).sum().backward()
    torch.testing.assert_close(value.grad, torch.full_like(value, -0.9))


class Fixed(nn.Module):
    """Returns a fixed theta_b."""

    def __init__(self, *temperatures):
        super().__init__()
        self.theta = torch.tensor(
            [[(t - 1) / 20] for t in temperatures], dtype=torch.float64
        ).logit()

    def forward(self, predictions):
        self.seen = predictions
        return self.theta


def test_golden_loss_of_set_a_with_a_temperature_per_sample(set_a):
    teacher, student, _ = set_a
    strategy = make("instance")
    strategy.network = Fixed(3.0, 5.0)
    found = decide(strategy, teacher, student)
    near(found.teacher[:, 0], [3.0, 5.0])
    near(found.scale, [9.0, 25.0])
    near(kd(teacher, student, found).mean(), 0.5898134570)
    assert strategy.network.seen.shape == (2, 8)
    torch.testing.assert_close(strategy.network.seen.sum(1), torch.full((2,), 2.0).double())


def test_instance_temperatures_differ_and_start_near_the_global_one():
    teacher, student = normal(batch=32)
    found = decide(make("instance", classes=10), teacher, student).teacher
    assert len(found.unique()) == 32
    assert (found - 15.62).abs().max() < 3


@pytest.mark.parametrize("theta", [-1e4, -30.0, 30.0, 1e4])
def test_saturation_stays_within_the_bounds(set_a, theta):
    strategy = make(theta_init=theta).float()
    found = decide(strategy, *(z.float() for z in set_a[:2]))
    assert found.teacher[0].item() == pytest.approx(1.0 if theta < 0 else 21.0)
    found.scale.sum().backward()
    assert strategy.theta.grad.isfinite()


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("mode", ["global", "instance"])
def test_survives_degenerate_logits(name, mode):
    strategy = make(mode).float()
    assert_survives(strategy, name)
    assert all(p.grad.isfinite().all() for p in strategy.parameters())


def test_invalid_values_are_rejected():
    for name in ("tau_min", "tau_range", "loops", "hidden"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
            make(**{name: 0})
    with pytest.raises(ValueError, match=r"weight_decay must lie in \[0, 1\]"):
        make(weight_decay=-1e-4)
    with pytest.raises(ValueError, match="mode must be one of global, instance, found 'local'"):
        make("local")
