"""Cosine similarity between teacher and student, per class over the batch."""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both

EPS = 1e-8  # as in the released code; also defines the cosine of a zero vector


class CSKD(DistillLoss):
    """One minus the mean cosine between the teacher's and the student's class columns.

    Rule: value = mean_b(scale_b) * (1 - mean_c cos(p[:, c], q[:, c])), p = softmax(z_t / T_t),
        q = softmax(z_s / T_s); the paper's factor (2) is the term's weight.
    Source: Ham, Kim, Lee, Lee, Kim, "Cosine Similarity Knowledge Distillation for Individual Class
        Information Transfer", arXiv 2311.14307; the formula is from a third-party implementation,
        as the authors have not released code.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Range: [0, mean scale].
    Deviations: none in the loss. That implementation weights by the squared mean temperature; here
        the strategy sets the scale. EPS is added to the product of the norms, so the loss of equal
        columns is of the order of 1e-8. With B = 1 every cosine is 1 and nothing is learned.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        p, q = (log_p.exp() for log_p in soften_both(outputs, temperatures))
        value = 1 - cosine(p, q, dim=0).mean()
        return (temperatures.scale.mean() * value).expand(len(q))


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine similarity of two tensors of the same shape along one dimension.

    A zero vector has cosine 0 and a finite gradient.
    """
    norms = a.norm(dim=dim) * b.norm(dim=dim)
    return (a * b).sum(dim=dim) / (norms + EPS)
