"""The temperature seam: read this first.

A strategy sees the logits of a batch and how far training is, and answers with three tensors. Three
and not two, because "temperature, then times tau squared" cannot express logit standardisation
(scale = base tau squared), TTM (scale 1), WTTM (scale = power sum) or DTKD (scale = T_t x T_s).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from kdbench.progress import Progress

# Beyond, float32 is at its end: a divergence times tau^2 is nothing but rounding, or 0.
TAU_MIN, TAU_MAX = 1e-3, 1e3


class Temperatures(NamedTuple):
    """What a strategy decides for one batch.

    Attributes:
        teacher: [B, 1] float32, > 0 and finite; divides the teacher's logits.
        student: [B, 1] float32, > 0 and finite; divides the student's logits.
        scale: [B] float32; multiplies each sample's distillation loss.
    """

    teacher: Tensor
    student: Tensor
    scale: Tensor


class TemperatureStrategy(nn.Module):
    """Decides the temperatures of a batch. Subclasses implement ``forward``.

    A strategy that learns is an ordinary module: its parameters reach the optimizer through
    ``param_groups`` and its buffers and parameters are saved with the run. One that needs feedback
    from the step overrides ``observe``.

    Attributes:
        trains_itself: whether it steps its own parameters in ``observe``; the run's optimizer must
            then leave them alone.
        needs_labels: whether it reads the targets as classes, and cannot do with probabilities.
    """

    trains_itself = False
    needs_labels = False

    def forward(
        self,
        teacher_logits: Tensor,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress,
    ) -> Temperatures:
        """Temperatures of one batch.

        Args:
            teacher_logits: [B, K] float32, without gradient.
            student_logits: [B, K] float32, with gradient.
            targets: [B] int64 labels.
            progress: position in training.
        """
        raise NotImplementedError

    def param_groups(self) -> list[dict]:
        """Optimizer groups of the strategy's own parameters.

        Weight decay would pull a temperature towards a value that nobody chose, so it is off
        unless a strategy states another value in its YAML.
        """
        if self.trains_itself:
            return []
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params, "weight_decay": 0.0}] if params else []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As any module, but for ``half()`` and ``bfloat16()``: temperatures stay in float32."""
        return super()._apply(lambda tensor: _keep_wide(tensor, fn(tensor)), recurse)

    def observe(self, student_logits: Tensor, targets: Tensor, progress: Progress) -> None:
        """Called by the learner after every optimizer step; nothing by default."""


class Schedule(TemperatureStrategy):
    """A temperature that depends on progress alone: the same for teacher, student and all samples.

    Rule: T_t = T_s = tau(fraction), scale = tau(fraction)^2. Subclasses implement ``tau_at``.
    Gradient: none; the temperature is a plain number.
    """

    def tau_at(self, progress: Progress) -> float:
        """Temperature at this point of training, > 0."""
        raise NotImplementedError

    def forward(
        self,
        teacher_logits: Tensor,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress,
    ) -> Temperatures:
        """See ``TemperatureStrategy.forward``."""
        return uniform(self.tau_at(progress), like=teacher_logits)


def uniform(tau: float, like: Tensor) -> Temperatures:
    """One temperature for teacher, student and every sample; scale = tau squared.

    Args:
        tau: temperature, > 0.
        like: [B, K] logits that give batch size, dtype and device.
    """
    temperature = torch.full_like(like[:, :1], tau)
    return Temperatures(temperature, temperature, torch.full_like(like[:, 0], tau * tau))


def dtype_of(module: nn.Module, like: Tensor) -> torch.dtype:
    """The type that a module computes in; that of ``like`` where it has no parameters."""
    return next((parameter.dtype for parameter in module.parameters()), like.dtype)


def _keep_wide(before: Tensor, after: Tensor) -> Tensor:
    if after.is_floating_point() and after.dtype.itemsize < 4:
        return before.to(after.device)
    return after


def require_positive(**values: float) -> None:
    """Raises ValueError unless every value is a finite number above zero."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a finite number > 0, found {value}")


def require_temperature(**values: float) -> None:
    """Raises ValueError unless every value lies between ``TAU_MIN`` and ``TAU_MAX``."""
    require_positive(**values)
    for name, value in values.items():
        if not TAU_MIN <= value <= TAU_MAX:
            raise ValueError(f"{name} must lie between {TAU_MIN:g} and {TAU_MAX:g}, found {value}")


def require_fraction(**values: float) -> None:
    """Raises ValueError unless every value lies in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], found {value}")
