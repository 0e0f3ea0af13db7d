import numpy as np
import pytest
from scipy import stats

from kdbench.data.order import SampleOrder
from kdbench.errors import ConfigError, DataError

TARGETS = np.arange(100) % 10
KEYS = [bytes([(37 * i) % 256]) for i in range(100)]


@pytest.fixture
def make_plan(make_dataset):
    def make(protocol="paper", data_seed=3, targets=TARGETS, **changes):
        recipe = make_dataset("fake", **changes)
        return SampleOrder(recipe, targets, lambda: KEYS[: len(targets)], 20, data_seed, protocol)

    return make


def test_an_epoch_is_a_permutation(make_plan):
    plan = make_plan()
    np.testing.assert_array_equal(np.sort(plan.order(0)), np.arange(100))
    assert (plan.order(0) != plan.order(1)).any()
    assert (plan.order(0) != make_plan(data_seed=4).order(0)).any()
    np.testing.assert_array_equal(plan.order(5), make_plan().order(5))


def test_any_sample_can_come_first(make_plan):
    plan = make_plan()
    firsts = np.bincount([plan.order(epoch)[0] for epoch in range(5000)], minlength=100)
    assert stats.chisquare(firsts).pvalue > 1e-3


@pytest.mark.parametrize(("drop_last", "lengths"), [(False, [32, 32, 32, 4]), (True, [32] * 3)])
def test_last_partial_batch(make_plan, drop_last, lengths):
    plan = make_plan(batch_size=32, drop_last=drop_last)
    assert plan.steps_per_epoch == len(lengths)
    assert [len(plan.order(0)[part]) for part in plan.slices(0)] == lengths
    assert [len(plan.order(0)[part]) for part in plan.slices(2)] == lengths[2:]


def test_strict_holds_out_part_of_train(make_plan):
    plan = make_plan("strict", val_fraction=0.2)
    held, train = plan.samples("val"), plan.train
    assert plan.eval_sizes == {"test": 20, "val": 20}
    np.testing.assert_array_equal(np.bincount(TARGETS[held]), np.full(10, 2))
    np.testing.assert_array_equal(np.sort(np.concatenate([held, train])), np.arange(100))
    np.testing.assert_array_equal(np.sort(plan.order(0)), train)


def test_strict_holds_out_the_same_for_every_seed(make_plan):
    first, second = make_plan("strict", data_seed=1), make_plan("strict", data_seed=2)
    np.testing.assert_array_equal(first.samples("val"), second.samples("val"))


def test_paper_has_no_validation_split(make_plan):
    plan = make_plan()
    assert plan.eval_sizes == {"test": 20}
    with pytest.raises(ConfigError, match=r"'val'.*run\.protocol=strict"):
        plan.samples("val")


def test_zero_steps_are_refused(make_plan):
    with pytest.raises(DataError, match="0 steps per epoch: 100 training images"):
        make_plan(batch_size=101, drop_last=True)
    assert make_plan(batch_size=101).steps_per_epoch == 1


def test_an_empty_split_is_refused(make_plan):
    with pytest.raises(DataError, match="the val split has no images"):
        make_plan("strict", targets=np.arange(10), val_fraction=0.1)


def test_unknown_protocol_is_refused(make_plan):
    with pytest.raises(ConfigError, match=r"run\.protocol='lenient'"):
        make_plan("lenient")
