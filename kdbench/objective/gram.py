"""Relations inside a batch: Gram matrices of the predictions, compared row by row.

MLKD compares them by squared distance, the two-view form of CSKD by cosine; neither multiplies by
a power of the temperature, so ``Temperatures.scale`` is not used.
"""

from torch import Tensor

from kdbench.objective.cskd import cosine
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the rows of the squared distance between matching rows: () from two [N, N]."""
    return (a - b).square().sum(dim=1).mean()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean cosine between matching rows: () from two [N, N]."""
    return 1 - cosine(a, b, dim=1).mean()


MEASURES = {"squared": squared_distance, "cosine": cosine_distance}


class Gram:
    """Distance between the relation matrices of teacher and student; a base for both directions.

    Gradient: to the student's logits, and to whatever part of the temperatures a strategy leaves
        in the graph.

    Args:
        measure: "squared" or "cosine".
    """

    def __init__(self, measure: str) -> None:
        if measure not in MEASURES:
            raise ValueError(f"measure={measure!r} must be one of {', '.join(MEASURES)}")
        self.distance = MEASURES[measure]

    def relations(self, probabilities: Tensor) -> Tensor:
        """Symmetric matrix of inner products, from [B, K] probabilities."""
        raise NotImplementedError

    def __call__(
        self,
        teacher_logits: Tensor,
        student_logits: Tensor,
        targets: Tensor,
        temperatures: Temperatures,
    ) -> Tensor:
        """Loss of the batch, the same for each sample.

        Args:
            teacher_logits: [B, K] float32.
            student_logits: [B, K] float32.
            targets: [B] int64, not used by this loss.
            temperatures: of this batch; the scale is not used.

        Returns:
            [B] the value, once for each sample, >= 0 up to rounding.
        """
        p = soften(teacher_logits, temperatures.teacher).exp()
        q = soften(student_logits, temperatures.student).exp()
        value = self.distance(self.relations(p), self.relations(q))
        return value.expand(len(student_logits))


class BatchGram(Gram):
    """How alike the predictions for two samples are: bc of MLKD.

    Rule: "squared": value = |P P^T - Q Q^T|_F^2 / B; "cosine": value = 1 - mean_b cos of rows b.
        P = softmax(z_t / T_t), Q = softmax(z_s / T_s).
    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023 ("squared"); the
        third-party release of CSKD, arXiv 2311.14307 ("cosine").
    Deviations: the releases also multiply by the mean of a sample mask, about a half. Such a
        factor belongs to the term's weight.
    """

    def relations(self, probabilities: Tensor) -> Tensor:
        """[B, B] inner products of samples."""
        return probabilities @ probabilities.T


class ClassGram(Gram):
    """How often two classes are predicted together: cc of MLKD.

    Rule: "squared": value = |P^T P - Q^T Q|_F^2 / K; "cosine": value = 1 - mean_c cos of rows c.
    Source, deviations: as ``BatchGram``, with a mask over classes.
    """

    def relations(self, probabilities: Tensor) -> Tensor:
        """[K, K] inner products of classes."""
        return probabilities.T @ probabilities
