"""Division of logits by a temperature, here and nowhere else."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures


def soften(logits: Tensor, temperature: Tensor) -> Tensor:
    """Log-probabilities of softened logits.

    Args:
        logits: [B, K].
        temperature: [B, 1], > 0.

    Returns:
        [B, K] log softmax(logits / temperature).
    """
    return F.log_softmax(scale_logits(logits, temperature), dim=1)


def scale_logits(logits: Tensor, temperature: Tensor) -> Tensor:
    """[B, K] logits / temperature, for losses without a softmax."""
    return logits / temperature


def soften_both(outputs: Outputs, temperatures: Temperatures) -> tuple[Tensor, Tensor]:
    """[B, K] log-probabilities of the teacher and of the student, each at its temperature."""
    teacher, student = outputs.logits
    return soften(teacher, temperatures.teacher), soften(student, temperatures.student)


def scale_both(outputs: Outputs, temperatures: Temperatures) -> tuple[Tensor, Tensor]:
    """[B, K] logits of the teacher and of the student, each divided by its temperature."""
    teacher, student = outputs.logits
    return scale_logits(teacher, temperatures.teacher), scale_logits(student, temperatures.student)
