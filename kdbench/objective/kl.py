"""The distillation loss of Hinton et al.: per-sample KL divergence, teacher first."""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class KL(DistillLoss):
    """KL divergence from the softened teacher to the softened student.

    Rule: loss_b = scale_b * sum_c p_bc (ln p_bc - ln q_bc), p = softmax(z_t / T_t),
        q = softmax(z_s / T_s).
    Source: Hinton, Vinyals, Dean, arXiv 1503.02531, section 2; the constant temperature's scale
        tau^2 keeps the gradient's size independent of tau (section 2.1).
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Range: >= 0 up to rounding.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        log_p, log_q = soften_both(outputs, temperatures)
        return temperatures.scale * (log_p.exp() * (log_p - log_q)).sum(dim=1)
