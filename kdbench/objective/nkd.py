"""Normalised distillation: cross-entropies with the teacher, target and other classes apart.

Both are terms of their own. The released method takes the target term at temperature 1 whatever
the other one uses, so its YAML gives that term its own strategy.
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
    Gradient: to the student's logits, and to whatever part of the temperatures and the scale a
        strategy leaves in the graph.
    Deviations: none. The loss is smallest at q_y = 1 and not at q_y = p_y, as published.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        target = outputs.targets[:, None]
        log_p, log_q = (each.gather(1, target) for each in soften_both(outputs, temperatures))
        return -temperatures.scale * (log_p.exp() * log_q).squeeze(1)


class NKDNonTarget(DistillLoss):
    """Cross-entropy between the distributions over the K - 1 other classes.

    Rule: loss_b = -scale_b * sum_{c != y} p'_c ln q'_c; p' and q' are the softened distributions
        without the target, renormalised.
    Source: as ``NKDTarget``.
    Gradient: as ``NKDTarget``; it is that of ``NCKD``.
    Deviations: none. At equality the loss is scale times the teacher's entropy, not 0.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (without_target(each, outputs.targets) for each in both)
        return -temperatures.scale * (log_p.exp() * log_q).sum(dim=1)
