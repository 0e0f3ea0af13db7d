"""A learner: one student and all its training state."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.data.base import Batch
from kdbench.engine.guard import FiniteGuard
from kdbench.engine.metrics import TrainMeter
from kdbench.engine.schedule import LearningRate
from kdbench.engine.seed import RandomState
from kdbench.model.compute import Compute
from kdbench.model.features import WithFeatures
from kdbench.objective.objective import Objective
from kdbench.outputs import WEAK, NetworkOutput, Outputs
from kdbench.plugin.base import Plugin
from kdbench.progress import Progress
from kdbench.teacher.teacher import Query, queries_of


class Learner:
    """Trains one student on given batches and teacher outputs.

    Independent of files, other learners and the data pipeline; see ``Journal`` for a run's files
    and ``Trainer`` for the loop.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        plugin: Plugin,
        optimizer: Optimizer,
        schedule: LearningRate,
        random: RandomState,
        compute: Compute,
    ) -> None:
        self.student, self.objective, self.plugin = student, objective, plugin
        self.optimizer, self.schedule = optimizer, schedule
        self.random, self.compute = random, compute
        self.queries = queries_of(objective)
        self.network = compute.fuse(student)  # shares the student's parameters
        features = self.queries[0].features
        wrapped = WithFeatures(student, "preacts" in features) if features else None
        self.with_features = None if wrapped is None else compute.fuse(wrapped)
        self.scaler = compute.scaler()
        self.guard = FiniteGuard(compute.device)
        self.meter = TrainMeter()
        self.step = 0
        self.lr = 0.0

    def train_step(
        self, batch: Batch, teacher: Mapping[Query, NetworkOutput], progress: Progress
    ) -> None:
        """One optimizer step.

        Args:
            batch: with every view that the objective uses.
            teacher: its outputs, one per query in ``queries``; empty without a teacher.
            progress: position in training.

        Raises:
            NumericalError: a loss or temperature is not finite.
        """
        with self.random.turn():
            self.lr = self.schedule.apply(self.optimizer, progress)
            self.student.train()
            outputs = self._outputs(batch, teacher)
            terms = self.objective(outputs, progress)
            self.guard.watch(terms, progress)
            self.optimizer.zero_grad(set_to_none=True)
            self.plugin.update(terms, self.optimizer, self.scaler)
            outputs = outputs.detach()
            self.objective.observe(outputs, progress)
            self.plugin.observe(outputs, progress)
            self.meter.update(terms, outputs)
        self.step = progress.step + 1

    def _outputs(self, batch: Batch, teacher: Mapping[Query, NetworkOutput]) -> Outputs:
        views = {
            query.view: Outputs(
                teacher.get(query), self._forward(batch, query.view), batch.targets, batch.index
            )
            for query in self.queries
        }
        weak = views.pop(WEAK)
        return weak._replace(views=views) if views else weak

    def _forward(self, batch: Batch, view: str) -> NetworkOutput:
        images = batch.images_of(view)
        if self.with_features is None:
            return NetworkOutput(self.compute.forward(self.network, images))
        return self.compute.forward_features(self.with_features, images)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """[B, K] float32 logits in evaluation mode."""
        self.student.eval()
        return self.compute.forward(self.network, images)

    def state_bytes(self) -> int:
        """Estimated size of a checkpoint: weights and two optimizer buffers."""
        return 3 * sum(t.numel() * t.element_size() for t in self.student.state_dict().values())

    def release(self) -> None:
        """Frees gradients and optimizer state; no further steps are possible."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """The complete training state, as tensors and plain types."""
        return {
            "step": self.step,
            "lr": self.lr,
            "student": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "plugin": self.plugin.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.random.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state."""
        self.step, self.lr = state["step"], state["lr"]
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.plugin.load_state_dict(state["plugin"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.random.load_state_dict(state["random"])
        self.meter.load_state_dict(state["meter"], self.compute.device)
