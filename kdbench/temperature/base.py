"""The temperature seam: read this first.

A strategy sees what both networks answer to a batch and how far training is, and decides three
tensors. Three and not two, because "temperature, then times tau squared" cannot express logit
standardisation (scale = base tau squared), TTM (scale 1), WTTM (scale = power sum) or DTKD
(scale = T_t x T_s).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.part import Part

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


class TemperatureStrategy(Part):
    """Decides the temperatures of a batch. Subclasses implement ``forward``.

    A strategy that learns is an ordinary module: its parameters reach the optimizer through
    ``param_groups`` and its buffers and parameters are saved with the run. One that needs feedback
    from the step overrides ``observe``.

    Attributes:
        weight_decay: 0 unless its YAML states another value: decay would pull a temperature
            towards a value that nobody chose.
    """

    weight_decay = 0.0

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        """Temperatures of one batch.

        Args:
            outputs: of one view; logits [B, K] float32 or wider, the teacher's without gradient.
            progress: position in training.
        """
        raise NotImplementedError


class Schedule(TemperatureStrategy):
    """A temperature that depends on progress alone: the same for teacher, student and all samples.

    Rule: T_t = T_s = tau(fraction), scale = tau(fraction)^2. Subclasses implement ``tau_at``.
    Gradient: none; the temperature is a plain number.
    """

    def tau_at(self, progress: Progress) -> float:
        """Temperature at this point of training, > 0."""
        raise NotImplementedError

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        return uniform(self.tau_at(progress), like=outputs.logits[0])


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
