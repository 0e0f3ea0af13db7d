"""The interface of temperature strategies: read this first.

From both networks' outputs for a batch and the position in training, a strategy computes three
tensors: two temperatures and a scale. The scale is separate because tau squared does not cover
logit standardization (base tau squared), TTM (1), WTTM (a power sum) or DTKD (T_t x T_s).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.part import Part

# Outside this range, a divergence times tau^2 is 0 or only rounding error in float32.
TAU_MIN, TAU_MAX = 1e-3, 1e3


class Temperatures(NamedTuple):
    """A strategy's output for one batch.

    Attributes:
        teacher: [B, 1] float32, > 0 and finite; divides the teacher's logits.
        student: [B, 1] float32, > 0 and finite; divides the student's logits.
        scale: [B] float32; multiplies each sample's distillation loss.
    """

    teacher: Tensor
    student: Tensor
    scale: Tensor


class TemperatureStrategy(Part):
    """Computes the temperatures of a batch. Subclasses implement ``forward``.

    A learned strategy is an ordinary module: its parameters reach the optimizer through
    ``param_groups``, and its parameters and buffers are saved with the run. Override ``observe``
    for feedback after each step.

    Attributes:
        weight_decay: 0 unless its YAML sets another value: decay would pull a temperature towards
            an arbitrary value.
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
    """A temperature that depends only on progress: equal for teacher, student and all samples.

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
    """The dtype of a module's parameters; that of ``like`` if it has none."""
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
