"""Distillation by correlation: matches relations instead of values.

Two terms: relations between classes within a sample, and between samples within a class.
"""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.objective.cskd import cosine
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class Inter(DistillLoss):
    """Inter-class relation: Pearson correlation between the two distributions of a sample.

    Rule: loss_b = scale_b * (1 - rho(p[b, :], q[b, :])), p = softmax(z_t / T_t),
        q = softmax(z_s / T_s).
    Source: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS
        2022, arXiv 2205.10536.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph. It grows inversely with the spread of the student's row, up to 1e8 for a
        uniform row, as in the released code.
    Range: [0, 2 scale] up to rounding.
    Deviations: none. A uniform row counts as uncorrelated; the 1e-8 added to the norms leaves a
        loss of that order at equality.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        p, q = (log_p.exp() for log_p in soften_both(outputs, temperatures))
        return temperatures.scale * (1 - _pearson(p, q, dim=1))


class Intra(DistillLoss):
    """Intra-class relation: Pearson correlation between columns of a class, over the batch.

    Rule: value = mean_b(scale_b) * (1 - mean_c rho(p[:, c], q[:, c])).
    Source: as ``Inter``.
    Gradient: as ``Inter``.
    Deviations: none. The columns are as long as the batch: with B = 2 every correlation is +-1,
        with B = 1 it counts as 0, and the loss is the scale without a gradient.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        p, q = (log_p.exp() for log_p in soften_both(outputs, temperatures))
        value = 1 - _pearson(p, q, dim=0).mean()
        return (temperatures.scale.mean() * value).expand(len(q))


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return cosine(a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True), dim)
