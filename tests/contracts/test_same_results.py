"""What makes training faster changes no more than rounding, at no step of a training.

Two free-running trainings cannot show that: a last bit grows into a per cent within a hundred steps
at the usual learning rate, whatever the bit came from. So each step of a training without any
speed-up is repeated, from the same state, with it.
"""

import copy
from itertools import islice

import pytest
import torch
from torch.optim.swa_utils import update_bn

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.engine.assemble import build_learner, open_data
from kdbench.engine.seed import RandomState
from kdbench.model.compute import configure_compute
from kdbench.progress import Progress
from kdbench.teacher.teacher import Teacher

SWITCHES = ["channels_last", "fold_teacher", "fused_norm", "fused_optimizer"]
REAL = ["dataset=mnist5k", "pair=resnet20_resnet8", "run.device=cpu", "run.epochs=240"]


class Side:
    """A teacher and a learner with some of the switches on."""

    def __init__(self, cache, *overrides):
        cfg = compose_config([*REAL, f"paths.cache={cache}", "speed=none", *overrides])
        self.compute = configure_compute(cfg)
        self.data = open_data(cfg, self.compute)
        with RandomState(0, self.compute.device).turn():
            network = build(cfg.teacher.model)
        update_bn([next(self.data.train_batches(0)).images], network)
        self.teacher = Teacher(network, self.compute, digest="")
        self.learner = build_learner(cfg, self.compute)
        self.start = torch.cat([p.detach().flatten() for p in self.learner.student.parameters()])

    def step(self, batch, number):
        self.learner.meter.reset()
        progress = Progress(number, 15_000, 0, 240)
        teacher = {query: self.teacher.query(batch, query) for query in self.learner.queries}
        self.learner.train_step(batch, teacher, progress)
        return self.learner.meter.loss()

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.learner.student.parameters()])


def compare(cache, switches, steps):
    plain = Side(cache)
    fast = Side(cache, *(f"speed.{name}=true" for name in switches))
    for number, batch in enumerate(islice(plain.data.train_batches(0), steps)):
        fast.learner.load_state_dict(copy.deepcopy(plain.learner.state_dict()))
        before = plain.weights()
        slow_loss, fast_loss = plain.step(batch, number), fast.step(batch, number)
        assert fast_loss == pytest.approx(slow_loss, rel=1e-5), number
        moved, apart = (plain.weights() - before).norm(), (fast.weights() - plain.weights()).norm()
        assert moved > 0
        assert apart < 0.01 * moved, number  # a ReLU at its kink may be on in one of them
    assert (plain.weights() - plain.start).norm() > 0.1  # it did learn


@pytest.mark.parametrize("switches", [[name] for name in SWITCHES] + [SWITCHES], ids="-".join)
def test_each_step_is_the_same_up_to_rounding(tmp_path, switches):
    needed = ["channels_last"] if switches == ["fused_norm"] else []
    compare(tmp_path, [*needed, *switches], steps=12)


@pytest.mark.slow
def test_two_hundred_steps_are_the_same_up_to_rounding(tmp_path):
    compare(tmp_path, SWITCHES, steps=200)


def test_half_precision_is_near(tmp_path):
    full, half = Side(tmp_path, "speed=full"), Side(tmp_path, "speed=full", "run.precision=bf16")
    batch = next(full.data.train_batches(0))
    assert half.step(batch, 0) == pytest.approx(full.step(batch, 0), rel=0.02)
