import pytest
import torch

from kdbench.temperature.random import Random
from tests.helpers.strategy_probe import DEGENERATE, assert_survives, decide, normal


def draw(per="sample", seed=0, batch=4096):
    torch.manual_seed(seed)
    return decide(Random(low=2.0, high=6.0, per=per), *normal(batch=batch, classes=3))


def test_uniform_between_the_bounds():
    found = draw().teacher
    assert found.min() >= 2
    assert found.max() <= 6
    counts = torch.histc(found, bins=8, min=2, max=6)
    assert (counts - 512).abs().max() < 5 * 512**0.5


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_shared_by_both_networks_and_squared_in_the_scale(per):
    found = draw(per)
    assert torch.equal(found.teacher, found.student)
    assert torch.equal(found.scale, found.teacher[:, 0] ** 2)


def test_per_batch_draws_one_number_per_batch():
    strategy = Random(low=2.0, high=6.0, per="batch")
    torch.manual_seed(0)
    first, second = (decide(strategy, *normal()).teacher for _ in range(2))
    assert len(first.unique()) == len(second.unique()) == 1
    assert first[0] != second[0]
    assert len(draw("sample", batch=64).teacher.unique()) == 64


def test_both_options_draw_equally_many_global_random_numbers():
    assert torch.equal(draw(seed=1).teacher, draw(seed=1).teacher)
    assert not torch.equal(draw(seed=1).teacher, draw(seed=2).teacher)
    draw("sample")
    after_sample = torch.rand(3)
    draw("batch")
    assert torch.equal(torch.rand(3), after_sample)


def test_nothing_is_in_the_graph():
    teacher, student = normal(batch=3)
    found = decide(Random(2.0, 6.0, "sample"), teacher, student.requires_grad_())
    assert not any(tensor.requires_grad for tensor in found)


def test_equal_bounds_are_a_constant():
    found = decide(Random(4.0, 4.0, "sample"), *normal(batch=3))
    assert found.teacher.tolist() == [[4.0]] * 3


@pytest.mark.parametrize("name", DEGENERATE)
def test_survives_degenerate_logits(name):
    assert_survives(Random(2.0, 6.0, "sample"), name)


def test_invalid_values_are_rejected():
    with pytest.raises(ValueError, match="low must be a finite number > 0"):
        Random(0.0, 6.0, "sample")
    with pytest.raises(ValueError, match="low must not exceed high, found low=6"):
        Random(6.0, 2.0, "sample")
    with pytest.raises(ValueError, match="per must be one of sample, batch, found 'class'"):
        Random(2.0, 6.0, "class")
