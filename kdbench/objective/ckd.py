"""Comparative distillation: matches differences between the logits of two samples."""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import scale_both


class CKD(DistillLoss):
    """Mean squared error between differences of two samples' logits, over all pairs of a batch.

    Rule: value = mean_b(scale_b) * mean_ij mean_c ((u_s,i - u_s,j) - (u_t,i - u_t,j))^2 with
        u = z / T. With d_i = u_s,i - u_t,i this equals
        mean_b(scale_b) * 2 mean_i mean_c (d_i - mean_i d_i)^2: logit regression up to a common
        offset. The second form needs B differences instead of B^2.
    Source: Wilf et al., "Comparative Knowledge Distillation", WACV 2025: pairs of samples.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Range: >= 0; 0 where B = 1.
    Scale: as in ``MSE``; a common temperature and its square as scale cancel.
    Deviations: takes the mean over classes, as public implementations do; a squared norm equals a
        weight K times as large. Pairs of a sample with itself count, as 0; without them the mean
        is B / (B - 1) times as large. The paper's groups of samples are omitted.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        teacher, student = scale_both(outputs, temperatures)
        error = student - teacher
        value = 2 * (error - error.mean(dim=0)).square().mean()
        return (temperatures.scale.mean() * value).expand(len(error))
