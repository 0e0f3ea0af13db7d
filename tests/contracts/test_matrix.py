"""Every strategy with every objective: two steps of training, or a refusal by name."""

import pytest
import torch
from torch import nn

from kdbench.config.build import build_objective, build_optimizer
from kdbench.config.check import find_problems
from kdbench.config.compose import CONF, compose_config
from kdbench.progress import Progress
from tests.helpers.outputs import of

STRATEGIES = sorted(path.stem for path in (CONF / "temperature").glob("*.yaml"))
OBJECTIVES = sorted(p.stem for p in (CONF / "objective").glob("*.yaml") if p.stem != "ce")
# Phase I of annealing is its temperature's staircase: another one says nothing about phases.
REFUSED = {("annealing", strategy) for strategy in STRATEGIES if strategy != "annealing"}


def compose(objective, strategy):
    return compose_config([f"objective={objective}", f"temperature={strategy}"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_steps(objective, strategy):
    if (objective, strategy) in REFUSED:
        text = " ".join(find_problems(compose(objective, strategy)))
        reasons = (f"objective=annealing does not go with temperature={strategy}", "start < end")
        assert any(reason in text for reason in reasons)
        return
    cfg = compose(objective, strategy)
    torch.manual_seed(0)
    built = build_objective(cfg)
    teacher, student = nn.Linear(12, 10), nn.Linear(12, 10)
    groups = [{"params": list(student.parameters())}, *built.param_groups()]
    optimizer = build_optimizer(cfg.optim, groups)
    images, targets = torch.randn(8, 12), torch.arange(8)
    before = student.weight.clone()
    for step in range(2):
        progress = Progress(step=step, total_steps=2, epoch=step, total_epochs=2)
        strong = of(teacher(images + 0.1), student(images + 0.1), targets)
        outputs = of(teacher(images), student(images), targets)._replace(views={"strong": strong})
        terms = built(outputs, progress)
        assert all(loss.shape == (8,) for loss in terms.terms.values())
        assert all(loss.isfinite().all() for loss in terms.terms.values())
        optimizer.zero_grad()
        terms.total().backward()
        assert student.weight.grad.isfinite().all()
        optimizer.step()
        built.observe(outputs, progress)
    assert not torch.equal(student.weight, before)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "annealing"])
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o != "annealing"])
def test_the_scale_counts(objective, strategy):
    """Twice the scale is twice the loss of the terms that use it, per sample or in the mean."""
    cfg = compose(objective, strategy)
    built = build_objective(cfg)
    teacher, student = 2 * torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(1))
    logits = (teacher, student, torch.arange(6))
    for term in built.terms.values():
        torch.manual_seed(0)
        progress = Progress(0, 1, 0, 1)
        found = (term.strategy or built.temperature)(of(*logits), progress)
        once, twice = (
            term.loss(of(*logits), found._replace(scale=factor * found.scale)) for factor in (1, 2)
        )
        if "multilevel" in type(term.loss).__module__:
            continue  # sums over further temperatures, whose scale is their own
        torch.testing.assert_close(twice, 2 * once)
