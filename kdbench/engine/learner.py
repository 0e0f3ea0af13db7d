"""A learner: one student with everything that changes while it trains."""

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
from kdbench.objective.objective import Objective, StrongView
from kdbench.plugin.base import Plugin
from kdbench.progress import Progress


class Learner:
    """Trains one student on the batches and teacher logits that it is given.

    It knows nothing of files, other learners or where batches come from: see ``Journal`` for what
    a run writes, and ``Trainer`` for the loop.
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
        self.network = compute.fuse(student)  # the student, computed with less work
        self.scaler = compute.scaler()
        self.guard = FiniteGuard(compute.device)
        self.meter = TrainMeter()
        self.step = 0
        self.lr = 0.0

    def train_step(
        self,
        batch: Batch,
        teacher_logits: Tensor | None,
        teacher_strong: Tensor | None,
        progress: Progress,
    ) -> None:
        """One optimizer step.

        Args:
            batch: images, targets, index and view.
            teacher_logits: [B, K] float32; None if the objective needs none.
            teacher_strong: [B, K] float32 for the strong view; None if the objective needs none.
            progress: position in training.

        Raises:
            NumericalError: a loss or temperature is not finite.
        """
        with self.random.turn():
            self.lr = self.schedule.apply(self.optimizer, progress)
            self.student.train()
            student_logits = self.compute.forward(self.network, batch.images)
            strong = self._strong_view(batch, teacher_strong)
            terms = self.objective.from_logits(
                teacher_logits, student_logits, batch.targets, progress, strong
            )
            self.guard.watch(terms, progress)
            self.optimizer.zero_grad(set_to_none=True)
            self.plugin.update(terms, self.optimizer, self.scaler)
            self.objective.observe(student_logits.detach(), batch.targets, progress)
            self.plugin.observe(student_logits.detach(), batch, progress)
            self.meter.update(terms, student_logits, batch.targets)
        self.step = progress.step + 1

    def _strong_view(self, batch: Batch, teacher_strong: Tensor | None) -> StrongView | None:
        if not self.objective.needs_strong_view:
            return None
        assert batch.strong is not None
        assert teacher_strong is not None
        return StrongView(teacher_strong, self.compute.forward(self.network, batch.strong))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """[B, K] float32 logits in evaluation mode."""
        self.student.eval()
        return self.compute.forward(self.network, images)

    def state_bytes(self) -> int:
        """About how large a saved state is: weights, and as much again twice for the optimizer."""
        return 3 * sum(t.numel() * t.element_size() for t in self.student.state_dict().values())

    def release(self) -> None:
        """Gives back what a step needs beside the weights, after the step that was the last."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a restart, as tensors and plain types."""
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
        """Continues where the saved learner was."""
        self.step, self.lr = state["step"], state["lr"]
        self.student.load_state_dict(state["student"])
        self.objective.load_state_dict(state["objective"])
        self.plugin.load_state_dict(state["plugin"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.random.load_state_dict(state["random"])
        self.meter.load_state_dict(state["meter"], self.compute.device)
