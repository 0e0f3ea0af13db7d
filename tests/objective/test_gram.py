import pytest
import torch

from kdbench.objective.gram import BatchGram, ClassGram
from kdbench.temperature.base import uniform
from tests.helpers.outputs import of


def value(loss, inputs, tau):
    return loss(of(*inputs), uniform(tau, like=inputs[0])).mean().item()


@pytest.mark.parametrize(
    ("tau", "of_classes", "of_batch"),
    [(4.0, 0.0026634931, 0.0018505922), (2.0, 0.0220696245, 0.0246634994)],
)
def test_golden_values_of_mlkd(set_a, tau, of_classes, of_batch):
    assert value(ClassGram("squared"), set_a, tau) == pytest.approx(of_classes, abs=1e-9)
    assert value(BatchGram("squared"), set_a, tau) == pytest.approx(of_batch, abs=1e-9)


def test_golden_sums_over_the_temperatures_of_mlkd(set_a):
    taus = (4.0, 2.0, 3.0, 5.0, 6.0)
    of_classes = sum(value(ClassGram("squared"), set_a, tau) for tau in taus)
    of_batch = sum(value(BatchGram("squared"), set_a, tau) for tau in taus)
    assert of_classes == pytest.approx(0.0333653522, abs=1e-9)
    assert of_batch == pytest.approx(0.0333438634, abs=1e-9)


@pytest.mark.parametrize(
    ("inputs", "of_classes", "of_batch"),
    [("set_a", 0.0117010627, 0.0052868143), ("set_a3", 0.0061828760, 0.0037408559)],
)
def test_golden_values_of_cskd(inputs, of_classes, of_batch, request):
    inputs = request.getfixturevalue(inputs)
    assert value(ClassGram("cosine"), inputs, 4.0) == pytest.approx(of_classes, abs=1e-9)
    assert value(BatchGram("cosine"), inputs, 4.0) == pytest.approx(of_batch, abs=1e-9)


@pytest.mark.parametrize("loss", [ClassGram, BatchGram])
def test_the_scale_is_not_used(set_a, loss):
    temperatures = uniform(4.0, like=set_a[0])
    unscaled = temperatures._replace(scale=torch.ones(2, dtype=torch.float64))
    found = loss("squared")(of(*set_a), temperatures)
    assert torch.equal(found, loss("squared")(of(*set_a), unscaled))


def test_an_unknown_measure_is_rejected():
    with pytest.raises(ValueError, match="measure='l2' must be one of squared, cosine"):
        BatchGram("l2")
