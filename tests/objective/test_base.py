"""What goes through the seam beside logits: learned losses, features, indices, views."""

import io

import pytest
import torch
from torch import nn

from kdbench.model.features import features
from kdbench.model.load import load_model
from kdbench.objective.base import DistillLoss
from kdbench.objective.kl import KL
from kdbench.objective.multilevel import MedianMask, PredictionAugmentation
from kdbench.objective.objective import Objective, Term
from kdbench.outputs import Outputs
from kdbench.progress import START
from kdbench.temperature.base import TemperatureStrategy, uniform
from kdbench.temperature.constant import Constant
from kdbench.temperature.ctkd import CTKD
from tests.helpers.outputs import of
from tests.helpers.stateful import Hint


class Scaled(DistillLoss):
    """A loss with a learned factor."""

    def __init__(self, weight_decay=None):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.weight_decay = weight_decay
        self.observed = []

    def forward(self, outputs, temperatures):
        teacher, student = outputs.logits
        return (self.factor * (teacher - student)).square().mean(dim=1)

    def observe(self, outputs, progress):
        self.observed.append(outputs)


class Forgetful(Scaled):
    def param_groups(self):
        return []


def ctkd():
    return CTKD("global", 1.0, 20.0, 1.0, 10, 5e-4, 16, 4)


def make(loss, temperature=None, **options):
    term = Term(loss=loss, weight=1.0, **options)
    return Objective("own", 1.0, {"own": term}, temperature or Constant(4.0))


def restore(objective, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    objective.load_state_dict(torch.load(buffer, weights_only=True))


def test_parameters_of_a_loss_are_trained_saved_and_moved(set_a):
    objective = make(Scaled())
    (group,) = objective.param_groups()
    assert group.keys() == {"params"}  # the optimizer's learning rate and weight decay
    optimizer = torch.optim.SGD([group], lr=0.1, weight_decay=0.5)
    objective.from_logits(*set_a).total().backward()
    optimizer.step()
    assert objective.terms["own"].loss.factor.item() != 2
    other = make(Scaled())
    restore(other, objective.state_dict())
    assert torch.equal(other.terms["own"].loss.factor, objective.terms["own"].loss.factor)
    assert all(p.device.type == "meta" for p in objective.to("meta").parameters())


def test_groups_state_their_weight_decay():
    objective = make(Scaled(weight_decay=0.25), temperature=ctkd(), strategy=ctkd())
    decays = [group["weight_decay"] for group in objective.param_groups()]
    assert decays == [5e-4, 0.25, 5e-4]  # temperature, loss, the term's own temperature


@pytest.mark.parametrize("mask", [False, True])
def test_a_strategy_inside_a_loss_learns_too(set_a, mask):
    inner = ctkd()
    loss = PredictionAugmentation(KL(), base=True, others=[Constant(2.0), inner])
    objective = make(MedianMask(loss, "samples", False) if mask else loss)
    assert [group["params"] for group in objective.param_groups()] == [[inner.theta]]
    objective.from_logits(*set_a).total().backward()
    assert inner.theta.grad.abs() > 0
    assert any(torch.equal(tensor, inner.theta) for tensor in objective.state_dict().values())


def test_a_parameter_without_a_group_is_an_error():
    with pytest.raises(ValueError, match=r"terms\.own\.loss\.factor .* in 0 optimizer groups"):
        make(Forgetful()).param_groups()


def test_an_unregistered_module_in_a_loss_is_an_error():
    loss = Scaled()
    loss.layers = [nn.Linear(2, 2)]
    with pytest.raises(ValueError, match=r"Scaled\.layers\[0\] is an unregistered Linear"):
        make(loss)


def test_a_loss_that_is_not_a_module_is_rejected():
    with pytest.raises(ValueError, match=r"loss must be a DistillLoss .* found function"):
        make(lambda outputs, temperatures: temperatures.scale)


def test_an_invalid_name_of_a_term():
    with pytest.raises(ValueError, match="invalid name of a term"):
        Objective("own", 1.0, {"a.b": Term(KL(), 1.0)}, Constant(1.0))


class Watching(TemperatureStrategy):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, outputs, progress):
        return uniform(1.0, like=outputs.student.logits)

    def observe(self, outputs, progress):
        self.seen.append(outputs)


def test_every_part_observes_its_own_view_once(set_a):
    shared, own, inner, loss = Watching(), Watching(), Watching(), Scaled()
    augmented = PredictionAugmentation(KL(), base=True, others=[inner])
    terms = {
        "weak": Term(augmented, 1.0),
        "again": Term(augmented, 1.0),  # the same parts again
        "strong": Term(loss, 1.0, strategy=own, view="strong"),
    }
    objective = Objective("own", 1.0, terms, shared)
    strong = of(set_a[0] + 1, set_a[1].clone().requires_grad_(), set_a[2])
    outputs = of(*set_a)._replace(views={"strong": strong})
    objective(outputs, START)
    objective.observe(outputs, START)
    assert [len(part.seen) for part in (shared, own, inner)] == [1, 1, 1]
    assert torch.equal(shared.seen[0].teacher.logits, set_a[0])
    assert torch.equal(inner.seen[0].teacher.logits, set_a[0])
    assert torch.equal(own.seen[0].teacher.logits, set_a[0] + 1)
    assert torch.equal(loss.observed[0].teacher.logits, set_a[0] + 1)
    assert not own.seen[0].student.logits.requires_grad


def test_a_view_may_have_any_name(set_a):
    objective = Objective(
        "own", 1.0, {"kd": Term(KL(), 1.0, view="mixed")}, Constant(4.0), ce_views={"second": 0.5}
    )
    assert objective.views == ("weak", "mixed", "second")
    mixed, second = (of(set_a[0], set_a[1] + n, set_a[2]) for n in (0.5, set_a[1]))
    terms = objective(of(*set_a)._replace(views={"mixed": mixed, "second": second}))
    assert terms.terms.keys() == {"ce", "ce_second", "kd"}
    assert terms.task == {"ce", "ce_second"}
    expected = nn.functional.cross_entropy(2 * set_a[1], set_a[2], reduction="none")
    torch.testing.assert_close(terms.terms["ce_second"], 0.5 * expected)
    with pytest.raises(ValueError, match="needs the outputs of a second view"):
        objective(of(*set_a)._replace(views={"mixed": mixed}))


@pytest.fixture
def shown():
    """Outputs with features of two networks, and the loss that reads them."""
    torch.manual_seed(0)
    teacher, student = (load_model(arch, num_classes=4) for arch in ("resnet8x4", "resnet8"))
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        of_teacher = features(teacher.eval(), images)
    targets = torch.tensor([0, 3, 1])
    return Outputs(of_teacher, features(student, images), targets, torch.tensor([4, 0, 9]))


def test_a_loss_that_reads_features_and_indices(shown):
    objective = make(Hint(momentum=0.5))
    assert objective.needs == {"features", "index"}
    assert objective.waits_for_shapes
    objective.adapt(shown, num_samples=10)
    (group,) = objective.param_groups()
    assert [tuple(p.shape) for p in group["params"]] == [(256, 64, 1, 1), (256,)]
    objective(shown).total().backward()
    assert all(p.grad.abs().sum() > 0 for p in group["params"])
    memory = objective.state_dict()["terms.own.loss.memory"]
    assert memory.flatten(1).abs().sum(dim=1).nonzero().flatten().tolist() == [0, 4, 9]
    torch.testing.assert_close(memory[4], 0.5 * shown.student.features.pooled[0].detach())


def test_half_precision_features_are_widened(shown):
    objective = make(Hint(momentum=0.5))
    objective.adapt(shown, num_samples=10)
    narrow = shown._replace(
        teacher=shown.teacher.map(torch.Tensor.bfloat16),
        student=shown.student.map(torch.Tensor.bfloat16),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective(narrow).terms["own"].dtype == torch.float32


def test_adapt_must_be_called_exactly_once(shown):
    objective = make(Hint(momentum=0.5))
    for use in (lambda: objective(shown), objective.param_groups):
        with pytest.raises(RuntimeError, match=r"Hint of objective 'own' need.*objective\.adapt"):
            use()
    objective.adapt(shown, 10)
    with pytest.raises(RuntimeError, match="was already called"):
        objective.adapt(shown, 10)


def test_missing_inputs_are_named(shown):
    objective = make(Hint(momentum=0.5))
    objective.adapt(shown, 10)
    with pytest.raises(ValueError, match=r"own need the index of each sample, int64 \[3\]"):
        objective(shown._replace(index=None))
    with pytest.raises(ValueError, match=r"own need the student's features, found None"):
        objective(shown._replace(student=shown.student._replace(features=None)))
    objective.needs |= {"preacts"}
    with pytest.raises(ValueError, match=r"the teacher's maps before activation"):
        objective(shown)


def test_an_unknown_need_is_rejected():
    loss = KL()
    loss.needs = frozenset({"logits"})
    with pytest.raises(ValueError, match="needs has 'logits'; allowed are features, preacts"):
        make(loss)
