"""Input checks for custom training loops."""

from functools import cache

import pytest
import torch

from kdbench import Progress
from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.errors import NumericalError
from tests.helpers.outputs import of

INSTANCE = ("temperature.mode=instance", "temperature.num_classes=4")
compose_once = cache(lambda *overrides: compose_config(overrides))


def load_objective(method, own=()):
    """Like the public function, without its slow checks."""
    return build_objective(compose_once(f"method={method}", *own))


def batch(size=3, classes=4):
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, size, classes, generator=generator)
    return teacher, student.requires_grad_(), torch.arange(size) % max(classes, 1)


def mixed(targets, classes=4):
    """Targets as from timm's Mixup."""
    return torch.nn.functional.one_hot(targets, classes).float() * 0.9 + 0.1 / classes


@pytest.mark.parametrize("method", ["kd", "scratch", "ctkd"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (batch(classes=1), r"\(3, 1\) has one class"),
        (batch(size=0), r"\(0, 4\) is an empty batch"),
        ((torch.zeros(2, 5, 4), torch.zeros(2, 5, 4), torch.zeros(2)), r"\[B, K\].*\(2, 5, 4\)"),
        ((torch.zeros(2, 4).long(), torch.zeros(2, 4).long(), torch.zeros(2)), "floating-point"),
        ((*batch()[:2], torch.zeros(3)), r"int64 labels \[3\].*float32 \(3,\)"),
        ((*batch()[:2], torch.zeros(3, 1).long()), r"int64 labels \[3\].*\(3, 1\)"),
        ((*batch()[:2], torch.zeros(3).int()), "int32"),
        ((*batch()[:2], torch.zeros(2).long()), r"\(2,\)"),
    ],
)
def test_shapes_and_types_that_do_not_fit(method, arguments, words):
    with pytest.raises(ValueError, match=words):
        load_objective(method).from_logits(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite(value):
    teacher, student, targets = batch()
    teacher[1, 2] = value
    with pytest.raises(NumericalError, match="teacher_logits has 1 of 12 values"):
        load_objective("kd").from_logits(teacher, student, targets)


def test_an_instance_temperature_for_other_data():
    objective = load_objective("ctkd", ["temperature.mode=instance"])  # of ten classes
    with pytest.raises(ValueError, match=r"4 classes, but temperature.num_classes=10"):
        objective.from_logits(*batch())
    load_objective("ctkd", INSTANCE).from_logits(*batch())


@pytest.mark.parametrize(("method", "own"), [("ctkd", INSTANCE), ("rlkd", ()), ("mkd", ())])
@pytest.mark.parametrize("cast", ["double", "half", "bfloat16", "float"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_networks_inside_work_in_any_precision(method, own, cast, dtype):
    late = Progress(step=60, total_steps=100, epoch=5, total_epochs=10)
    objective = getattr(load_objective(method, own), cast)()
    teacher, student, targets = batch()
    student = student.detach().to(dtype).requires_grad_()
    for _ in range(3):
        outputs = of(teacher.to(dtype), student, targets)
        terms = objective(outputs, late)
        terms.total().backward()
        objective.observe(outputs, late)
    assert terms.total().isfinite()
    assert student.grad.isfinite().all()
    wide = torch.float64 if cast == "double" else torch.float32
    assert {parameter.dtype for parameter in objective.parameters()} == {wide}


def test_autocast_does_not_reach_the_losses():
    teacher, student, targets = batch(size=16)
    objective = load_objective("dist")
    plain = objective.from_logits(teacher, student, targets).total()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.from_logits(teacher, student, targets).total()
    assert torch.equal(found, plain)


@pytest.mark.parametrize("method", ["dkd", "nkd", "rlkd", "dkd_ctkd"])
def test_losses_with_labels_reject_mixed_targets(method):
    teacher, student, targets = batch()
    names = {"rlkd": "RLKD", "nkd": "nkd_non_target, nkd_target"}.get(method, "nckd, tckd")
    with pytest.raises(ValueError, match=rf"as from mixup, but {names} need one label"):
        load_objective(method).from_logits(teacher, student, mixed(targets))


@pytest.mark.parametrize("method", ["kd", "scratch", "ctkd", "mkd", "dist", "logit_std", "atkd"])
def test_other_losses_take_them(method):
    teacher, student, targets = batch()
    objective = load_objective(method)
    outputs = of(teacher, student, mixed(targets))
    terms = objective(outputs)
    objective.observe(outputs, Progress(0, 1, 0, 1))
    expected = torch.nn.functional.cross_entropy(student, mixed(targets))
    torch.testing.assert_close(terms.terms["ce"].mean() / objective.ce_weight, expected)


@pytest.mark.parametrize(
    "values", [(-3, 10, 0, 1), (11, 10, 0, 1), (0, 0, 0, 1), (0, 10, -1, 1), (0, 10, 2, 1)]
)
def test_invalid_progress(values):
    with pytest.raises(ValueError, match=r"must hold, found (step|epoch)="):
        Progress(*values)
