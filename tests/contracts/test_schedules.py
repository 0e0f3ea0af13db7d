import math
from itertools import pairwise

import pytest
import torch

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.constant import Constant
from kdbench.temperature.cosine import Cosine
from kdbench.temperature.exponential import Exponential
from kdbench.temperature.linear import Linear
from kdbench.temperature.step import Step

MOVING = [Linear, Cosine, Exponential]


def tau(strategy, fraction, total=1000):
    return strategy.tau_at(Progress(round(fraction * total), total, 0, 1))


def test_constant_is_constant():
    assert [tau(Constant(tau=3.5), f) for f in (0, 0.5, 1)] == [3.5, 3.5, 3.5]


@pytest.mark.parametrize("schedule", MOVING)
@pytest.mark.parametrize(("start", "end"), [(8.0, 2.0), (2.0, 8.0), (4.0, 4.0)])
@pytest.mark.parametrize("until", [0.3, 1.0])
def test_end_points_are_exact_and_the_way_is_monotone(schedule, start, end, until):
    strategy = schedule(start=start, end=end, until=until)
    values = [tau(strategy, step / 1000) for step in range(1001)]
    assert values[0] == start
    assert values[round(until * 1000)] == pytest.approx(end, rel=1e-12)
    assert all(value == pytest.approx(end, rel=1e-12) for value in values[round(until * 1000) :])
    sign = math.copysign(1, end - start)
    assert all(sign * (b - a) >= -1e-12 for a, b in pairwise(values))


def test_half_way_values_by_hand():
    assert tau(Linear(8.0, 2.0, 1.0), 0.5) == pytest.approx(5.0)
    assert tau(Cosine(8.0, 2.0, 1.0), 0.5) == pytest.approx(5.0)
    assert tau(Cosine(8.0, 2.0, 1.0), 0.25) == pytest.approx(5 + 3 * math.sqrt(0.5))
    assert tau(Exponential(8.0, 2.0, 1.0), 0.5) == pytest.approx(4.0)
    assert tau(Linear(8.0, 2.0, 0.5), 0.25) == pytest.approx(5.0)


def test_step_changes_at_its_milestones():
    strategy = Step(start=8.0, gamma=0.5, milestones=[0.25, 0.75])
    assert [tau(strategy, f) for f in (0, 0.249, 0.25, 0.749, 0.75, 1)] == [8, 8, 4, 4, 2, 2]
    assert tau(Step(start=8.0, gamma=0.5, milestones=[]), 1) == 8


def test_scale_is_tau_squared():
    logits, targets = torch.zeros(2, 5), torch.zeros(2).long()
    found = Constant(tau=3.0)(Outputs.from_logits(logits, logits, targets), Progress(0, 1, 0, 1))
    assert found.scale.tolist() == [9.0, 9.0]
    assert found.teacher.tolist() == found.student.tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize("value", [0.0, -4.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "construct",
    [
        lambda v: Constant(tau=v),
        lambda v: Linear(start=v, end=1.0, until=1.0),
        lambda v: Cosine(start=1.0, end=v, until=1.0),
        lambda v: Exponential(start=1.0, end=v, until=1.0),
        lambda v: Step(start=v, gamma=0.5, milestones=[]),
        lambda v: Step(start=1.0, gamma=v, milestones=[]),
    ],
)
def test_impossible_temperatures_are_refused_by_name(construct, value):
    with pytest.raises(ValueError, match=r"(tau|start|end|gamma) must be a finite number > 0"):
        construct(value)


def test_impossible_positions_are_refused():
    with pytest.raises(ValueError, match="until must lie in"):
        Linear(start=1.0, end=2.0, until=1.5)
    with pytest.raises(ValueError, match="milestones must increase"):
        Step(start=1.0, gamma=0.5, milestones=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"milestones\[1\] must lie in"):
        Step(start=1.0, gamma=0.5, milestones=[0.5, 150])
