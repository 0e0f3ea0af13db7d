"""Relations within a batch: Gram matrices of the predictions, compared row by row.

MLKD uses the squared distance, the two-view form of CSKD the cosine. Neither multiplies by a power
of the temperature, so ``Temperatures.scale`` is not used.
"""

from typing import Any

import torch
from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.objective.cskd import cosine
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the rows of the squared distance between matching rows: () from two [N, N]."""
    return (a - b).square().sum(dim=1).mean()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean cosine between matching rows: () from two [N, N]."""
    return 1 - cosine(a, b, dim=1).mean()


class _Product(torch.autograd.Function):
    """a @ b whose gradient is also computed without autocast."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            # The operand order that torch uses for transposed factors, for identical bits.
            of_a = (b @ gradient.T).T if _is_transposed(a) else gradient @ b.T
            of_b = (gradient.T @ a).T if _is_transposed(b) else a.T @ gradient
        return of_a, of_b


def _is_transposed(matrix: Tensor) -> bool:
    return matrix.stride() == (1, matrix.shape[0])


def product(a: Tensor, b: Tensor) -> Tensor:
    """[N, M] matrix product of [N, K] and [K, M], with a backward pass without autocast."""
    return _Product.apply(a, b)


MEASURES = {"squared": squared_distance, "cosine": cosine_distance}


class Gram(DistillLoss):
    """Distance between the relation matrices of teacher and student; base of both directions.

    Gradient: to the student's logits, and to the temperatures as far as the strategy keeps them
        in the graph.

    Range: >= 0 up to rounding.

    Args:
        measure: "squared" or "cosine".
    """

    def __init__(self, measure: str) -> None:
        super().__init__()
        if measure not in MEASURES:
            raise ValueError(f"measure={measure!r} must be one of {', '.join(MEASURES)}")
        self.distance = MEASURES[measure]

    def relations(self, probabilities: Tensor) -> Tensor:
        """Symmetric matrix of inner products, from [B, K] probabilities."""
        raise NotImplementedError

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        p, q = (log_p.exp() for log_p in soften_both(outputs, temperatures))
        value = self.distance(self.relations(p), self.relations(q))
        return value.expand(len(q))


class BatchGram(Gram):
    """Similarity of the predictions for pairs of samples (``bc`` of MLKD).

    Rule: "squared": value = |P P^T - Q Q^T|_F^2 / B; "cosine": value = 1 - mean_b cos of rows b.
        P = softmax(z_t / T_t), Q = softmax(z_s / T_s).
    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023 ("squared"); the
        third-party release of CSKD, arXiv 2311.14307 ("cosine").
    Deviations: the releases also multiply by the mean of a sample mask, about one half. Such a
        factor belongs in the term's weight.
    """

    def relations(self, probabilities: Tensor) -> Tensor:
        """[B, B] inner products of samples."""
        return product(probabilities, probabilities.T)


class ClassGram(Gram):
    """How often pairs of classes are predicted together (``cc`` of MLKD).

    Rule: "squared": value = |P^T P - Q^T Q|_F^2 / K; "cosine": value = 1 - mean_c cos of rows c.
    Source, deviations: as ``BatchGram``, with a mask over classes.
    """

    def relations(self, probabilities: Tensor) -> Tensor:
        """[K, K] inner products of classes."""
        return product(probabilities.T, probabilities)
