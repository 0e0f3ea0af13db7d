"""Every method in a mixed-precision loop: autocast reaches no strategy and no loss."""

import copy

import pytest
import torch

from kdbench.config.build import build_objective
from kdbench.config.compose import CONF, compose_config
from kdbench.progress import Progress
from tests.helpers.outputs import of

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
LATE = Progress(step=60, total_steps=100, epoch=6, total_epochs=10)


def outputs_of(objective):
    """Logits of 16 samples on every view, and the student's as leaves."""
    generator = torch.Generator().manual_seed(0)
    targets, leaves, views = torch.arange(16) % 10, [], {}
    for view in objective.views:
        teacher, student = 3 * torch.randn(2, 16, 10, generator=generator)
        leaves.append(student.requires_grad_())
        views[view] = of(teacher, student, targets)
    weak = views.pop("weak")
    return weak._replace(views=views or None), leaves


def train(objective):
    """Losses, temperatures, gradients and what was learned, of three steps."""
    torch.manual_seed(0)  # for strategies that draw
    outputs, leaves = outputs_of(objective)
    found = []
    for _ in range(3):
        terms = objective(outputs, LATE)
        terms.total().backward()
        objective.observe(outputs, LATE)
        found += [*terms.terms.values(), *(terms.temperatures or ())]
    found += [leaf.grad for leaf in leaves]
    found += [p.grad for p in objective.parameters() if p.grad is not None]
    return [tensor.detach() for tensor in [*found, *objective.parameters(), *objective.buffers()]]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_under_autocast_is_the_same_to_the_last_bit(method):
    torch.manual_seed(0)
    objective = build_objective(compose_config([f"method={method}"]))
    expected = train(copy.deepcopy(objective))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = train(objective)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_part_by_itself_under_autocast_too(method):
    objective = build_objective(compose_config([f"method={method}"])).eval()
    outputs, _ = outputs_of(objective)

    def losses():
        torch.manual_seed(0)
        with torch.no_grad():
            for term in objective.terms.values():
                seen = outputs.view(term.view)
                temperatures = (term.strategy or objective.temperature)(seen, LATE)
                yield term.loss(seen, temperatures)

    plain = list(losses())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = list(losses())
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
