"""Every published method, as its preset composes it, gives the loss worked out by hand."""

import pytest
import torch

from kdbench import Outputs, Progress, load_objective

CE = 0.9864575418  # of the golden inputs "set A"
T = 15.6211715726  # where CTKD's temperature starts
LATE = Progress(step=199, total_steps=240, epoch=199, total_epochs=240)  # ramps are over

GOLDENS = {
    "scratch": CE,
    "kd": 0.6187201865,
    "dkd": CE + 1.6964979794,
    "dtkd": 2.2283944889,
    "dkd_dtkd": CE + 1.4801850778,
    "ttm": 14.5631552941,
    "wttm": 3.0805670231,
    "ctkd": 0.6072908261,
    "dkd_ctkd": CE + 0.7645764622,
    "logit_std": 0.8357724252,
    "dkd_logit_std": CE + 4.6322289309,
    "atkd": 0.8386092143,
    "dkd_atkd": CE + 0.5160779241,
    "normkd": 0.4519906746,
    "dkd_normkd": CE + 2.2891152201,
    "nkd": CE + 32.6350751001,
    "dist": CE + 2 * 10.3269546130,
    "cskd": CE + 0.7247076974 + 1.1789721632,
    "mse": 1.2462500000,
    "kd_dot": 0.6187201865,  # another update, the same loss
}


def total(method, set_a, *overrides, progress=LATE):
    objective = load_objective(method, overrides)
    return objective.from_logits(*set_a, progress).total()


@pytest.mark.parametrize("method", GOLDENS)
def test_the_loss_of_a_preset(method, set_a):
    assert total(method, set_a).item() == pytest.approx(GOLDENS[method], abs=1e-9)


@pytest.mark.parametrize(
    ("method", "epoch", "golden"),
    [("dtkd", 1, 1.0485543891), ("dtkd", 10, 1.6074260153), ("dkd", 10, 1.8347065315)],
)
def test_ramps_count_epochs_from_one(method, epoch, golden, set_a):
    progress = Progress(step=epoch - 1, total_steps=240, epoch=epoch - 1, total_epochs=240)
    assert total(method, set_a, progress=progress).item() == pytest.approx(golden, abs=1e-9)


@pytest.mark.parametrize(
    ("override", "golden"),
    [
        ("temperature.mode=teacher_abs", 0.8419052629),
        ("temperature.mode=teacher_max", 0.8593819245),
    ],
)
def test_the_other_readings_of_atkd(override, golden, set_a):
    assert total("atkd", set_a, override).item() == pytest.approx(golden, abs=1e-9)


def test_ctkd_learns_the_base_temperature_of_logit_standardisation(set_a):
    objective = load_objective("ctkd_logit_std")
    found = objective.from_logits(*set_a, LATE).total()
    constant = total("logit_std", set_a, f"temperature.tau={2 * T}")  # T in [2, 42]
    assert found.item() == pytest.approx(constant.item(), abs=1e-9)
    (group,) = objective.param_groups()
    (theta,) = group["params"]
    found.backward()
    assert group["weight_decay"] == 5e-4
    assert theta.item() == 1.0
    assert theta.grad.abs() > 0


def test_logit_standardisation_hands_feedback_on(set_a):
    objective = load_objective("ctkd_logit_std", ["temperature@temperature.tau=meta"])
    assert objective.param_groups() == []  # it trains itself
    before = objective.state_dict()["temperature.base.log_tau"].clone()
    teacher, student, targets = set_a
    outputs = Outputs.from_logits(teacher, student.requires_grad_(), targets)
    objective(outputs, LATE)
    objective.observe(outputs, LATE)
    assert (objective.state_dict()["temperature.base.log_tau"] != before).all()


@pytest.mark.parametrize(
    ("method", "same_as"),
    [
        ("mkd", ["kd"]),
        ("rlkd", ["kd"]),
        ("dkd_rlkd", ["dkd", "objective.terms.nckd.weight=2"]),
    ],
)
def test_what_learns_by_trial_starts_from_a_constant(method, same_as, set_a):
    first = Progress(step=0, total_steps=240, epoch=0, total_epochs=240)
    expected = total(same_as[0], set_a, *same_as[1:], progress=first)
    found = total(method, set_a, progress=first)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # of float32 parameters


def test_random_temperatures_lie_between_their_bounds(set_a):
    found = load_objective("random").from_logits(*set_a, LATE).temperatures
    assert found is not None
    assert ((found.teacher >= 2) & (found.teacher <= 6)).all()
    assert torch.equal(found.teacher, found.student)
