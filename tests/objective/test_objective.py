import pytest
import torch
import torch.nn.functional as F

import kdbench
from kdbench.objective.kl import KL
from kdbench.objective.objective import Objective, Term
from kdbench.objective.ramp import LinearRamp
from kdbench.progress import Progress
from kdbench.temperature.constant import Constant


def make(ce_weight=0.1, weight=0.9, ramp=None, strategy=None, tau=4.0):
    terms = {"kd": Term(loss=KL(), weight=weight, ramp=ramp, strategy=strategy)}
    return Objective("kd", ce_weight, terms, Constant(tau))


def at_epoch(epoch):
    return Progress(step=10 * epoch, total_steps=100, epoch=epoch, total_epochs=10)


def test_golden_total_of_set_a(set_a):
    assert make().from_logits(*set_a).total().item() == pytest.approx(0.6187201865, abs=1e-9)


def test_losses_stay_per_sample_and_named_until_total(set_a):
    terms = make().from_logits(*set_a)
    assert {name: loss.shape for name, loss in terms.terms.items()} == {"ce": (2,), "kd": (2,)}
    golden = 0.1 * 0.9864575418
    assert terms.terms["ce"].mean().item() == pytest.approx(golden, abs=1e-9)
    parts = sum(loss.mean() for loss in terms.terms.values())
    assert terms.total().item() == pytest.approx(parts.item(), abs=1e-12)


def test_training_from_scratch_needs_no_teacher(set_a):
    objective = Objective("ce", 1.0, {}, None)
    assert not objective.needs_teacher
    terms = objective.from_logits(None, *set_a[1:])
    assert terms.temperatures is None
    assert terms.total().item() == pytest.approx(0.9864575418, abs=1e-9)


def test_no_gradient_reaches_the_teacher(set_a):
    teacher, student, targets = set_a
    teacher.requires_grad_(), student.requires_grad_()
    make().from_logits(teacher, student, targets).total().backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_a_ramp_weakens_its_term_only(set_a):
    objective = make(ramp=LinearRamp(epochs=5))
    full = make().from_logits(*set_a)
    for epoch, factor in [(0, 0.2), (3, 0.8), (4, 1.0), (9, 1.0)]:
        terms = objective.from_logits(*set_a, at_epoch(epoch)).terms
        torch.testing.assert_close(terms["kd"], factor * full.terms["kd"])
        assert torch.equal(terms["ce"], full.terms["ce"])


def test_a_term_may_have_its_own_strategy(set_a):
    found = make(tau=4.0, strategy=Constant(1.0)).from_logits(*set_a)
    assert found.terms["kd"].mean().item() == pytest.approx(0.9 * 0.3184768783, abs=1e-9)
    assert found.temperatures.teacher.tolist() == [[4.0], [4.0]]  # what the run reports


def test_losses_are_float32_whatever_the_networks_return(set_a):
    teacher, student, targets = (t.bfloat16() if t.is_floating_point() else t for t in set_a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = make().from_logits(teacher, student, targets)
    assert all(loss.dtype == torch.float32 for loss in terms.terms.values())


def test_a_teacher_with_one_output_does_not_broadcast(set_a):
    with pytest.raises(ValueError, match=r"\(2, 1\).*\(2, 4\).*same shape"):
        make().from_logits(set_a[0][:, :1], *set_a[1:])


def test_a_missing_teacher_is_an_error(set_a):
    with pytest.raises(ValueError, match="needs teacher_logits"):
        make().from_logits(None, *set_a[1:])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_invalid_weights_are_rejected(weight):
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        make(weight=weight)
    with pytest.raises(ValueError, match="ce_weight must be a finite number >= 0"):
        make(ce_weight=weight)


def test_nothing_to_optimize_is_rejected():
    with pytest.raises(ValueError, match="nothing to optimize"):
        make(ce_weight=0.0, weight=0.0)
    with pytest.raises(ValueError, match="need a temperature strategy"):
        Objective("kd", 1.0, {"kd": Term(loss=KL(), weight=1.0)}, None)
    with pytest.raises(ValueError, match="epochs must be >= 1"):
        LinearRamp(epochs=0)


def test_public_api_in_a_custom_loop():
    objective = kdbench.load_objective("kd", ["temperature.tau=2", "objective.ce_weight=0.5"])
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(32, 6, generator=generator), torch.arange(32) % 3
    teacher, student = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        logits = student(images)
        loss = objective.from_logits(teacher(images), logits, targets).total()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        log_q, p = F.log_softmax(logits / 2, 1), F.softmax(teacher(images) / 2, 1)
        by_hand = 0.9 * 4 * F.kl_div(log_q, p, reduction="batchmean")
        by_hand += 0.5 * F.cross_entropy(logits, targets)
    assert losses[-1] == pytest.approx(by_hand.item(), rel=1e-5)
