"""Jensen-Shannon divergence: a symmetric, bounded relative of the KL divergence."""

import math

import torch
from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class JS(DistillLoss):
    """Jensen-Shannon divergence between the softened teacher and the softened student.

    Rule: loss_b = scale_b * (KL(p, m) + KL(q, m)) / 2, m = (p + q) / 2, p = softmax(z_t / T_t),
        q = softmax(z_s / T_s).
    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on
        Information Theory 37, 1991. For a student near its teacher it is a quarter of ``KL``.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph. It vanishes where the distributions do not overlap: a confidently wrong
        student is hardly corrected.
    Range: [0, scale ln 2] up to rounding.
    Deviations: none.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        log_p, log_q = soften_both(outputs, temperatures)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
        return temperatures.scale * both.sum(dim=1) / 2
