"""What every strategy in conf/temperature promises, whatever its rule."""

import pytest
import torch

from kdbench.config.build import build
from kdbench.config.compose import CONF, compose_config
from kdbench.progress import Progress
from tests.helpers.outputs import of

STRATEGIES = sorted(path.stem for path in (CONF / "temperature").glob("*.yaml"))
PROGRESS = [Progress(step, 100, step // 10, 10) for step in (0, 37, 62, 99)]


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return build(compose_config([f"temperature={request.param}"]).temperature)


def logits(kind, batch=4, classes=10):
    generator = torch.Generator().manual_seed(0)
    if kind == "normal":
        return 3 * torch.randn(batch, classes, generator=generator)
    if kind == "huge":
        return 1e4 * torch.randn(batch, classes, generator=generator)
    if kind == "constant":
        return torch.ones(batch, classes)
    return -torch.rand(batch, classes, generator=generator) - 1  # negative maxima


@pytest.mark.parametrize("kind", ["normal", "huge", "constant", "negative"])
@pytest.mark.parametrize("batch", [1, 4])
def test_shapes_and_ranges(strategy, kind, batch):
    student = logits(kind, batch).requires_grad_()
    for progress in PROGRESS:
        found = strategy(
            of(logits("normal", batch), student, torch.zeros(batch).long()),
            progress,
        )
        assert found.teacher.shape == found.student.shape == (batch, 1)
        assert found.scale.shape == (batch,)
        for tensor in found:
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all()
        assert (found.teacher > 0).all()
        assert (found.student > 0).all()


def test_same_inputs_same_temperatures(strategy):
    student = logits("normal")
    arguments = (of(logits("huge"), student, torch.zeros(4).long()), PROGRESS[1])
    before = student.clone()
    torch.manual_seed(0)  # strategies that sample draw from the global generator
    first = strategy(*arguments)
    torch.manual_seed(0)
    second = strategy(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(student, before)


def test_state_survives_a_round_trip(strategy):
    state = {name: tensor.clone() for name, tensor in strategy.state_dict().items()}
    strategy.load_state_dict(state)
    assert all(torch.equal(strategy.state_dict()[name], state[name]) for name in state)


def test_every_learnable_parameter_has_one_optimizer(strategy):
    grouped = {id(p) for group in strategy.param_groups() for p in group["params"]}
    learnable = {id(p) for p in strategy.parameters() if p.requires_grad}
    assert grouped == (set() if strategy.trains_itself else learnable)


def test_the_file_has_the_name_of_the_option():
    for name in STRATEGIES:
        target = compose_config([f"temperature={name}"]).temperature._target_
        assert target.split(".")[-2] == name
