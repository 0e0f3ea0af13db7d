"""Normalized distillation: separate cross-entropies for the target and the other classes.

Both are separate terms. The released method always uses temperature 1 for the target term, so its
YAML gives that term its own strategy.
"""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.objective.dkd import without_target
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class NKDTarget(DistillLoss):
    """Soft cross-entropy of the target class.

    Rule: loss_b = -scale_b * p_y ln q_y, p = softmax(z_t / T_t), q = softmax(z_s / T_s).
    Source: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation", ICCV 2023,
        arXiv 2303.13005.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Deviations: none. As published, the minimum is at q_y = 1, not at q_y = p_y.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        target = outputs.targets[:, None]
        log_p, log_q = (each.gather(1, target) for each in soften_both(outputs, temperatures))
        return -temperatures.scale * (log_p.exp() * log_q).squeeze(1)


class NKDNonTarget(DistillLoss):
    """Cross-entropy between the distributions over the K - 1 other classes.

    Rule: loss_b = -scale_b * sum_{c != y} p'_c ln q'_c; p' and q' are the softened distributions
        without the target, renormalized.
    Source: as ``NKDTarget``.
    Gradient: as ``NKDTarget``; equal to that of ``NCKD``.
    Deviations: none. At equality the loss is scale times the teacher's entropy, not 0.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (without_target(each, outputs.targets) for each in both)
        return -temperatures.scale * (log_p.exp() * log_q).sum(dim=1)
