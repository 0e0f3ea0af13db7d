"""Decoupled distillation: separate losses for the target and the other classes.

The two losses are separate terms, so that the objective's YAML sets their weights and ramps and
each has its own curve. With weights 1 and 1 - p_y they add up to ``KL``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class TCKD(DistillLoss):
    """Target-class term: KL divergence between binary distributions, target versus rest.

    Rule: loss_b = scale_b * (p_y ln(p_y / q_y) + (1 - p_y) ln((1 - p_y) / (1 - q_y))), where
        p = softmax(z_t / T_t), q = softmax(z_s / T_s) and y is the target.
    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022,
        arXiv 2203.08679; the authors' mdistiller.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Deviations: 1 - q_y is never computed. Its logarithm is a logsumexp over the other classes, so
        loss and gradient stay finite if a target probability rounds to 1.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (_target_or_not(each, outputs.targets) for each in both)
        return temperatures.scale * _divergence(log_p, log_q)


class NCKD(DistillLoss):
    """Non-target term: KL divergence between the distributions over the K - 1 other classes.

    Rule: loss_b = scale_b * sum_{c != y} p'_c (ln p'_c - ln q'_c); p' and q' are the softened
        distributions without the target, renormalized.
    Source: as ``TCKD``.
    Gradient: as ``TCKD``; none reaches the student's target logit.
    Deviations: the authors subtract 1000 from the target logit, which fails for huge logits; here
        its column is dropped, with the same result otherwise. With K = 2 one class is left and
        the loss is 0.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (without_target(each, outputs.targets) for each in both)
        return temperatures.scale * _divergence(log_p, log_q)


def without_target(log_p: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities conditioned on the class not being the target.

    Args:
        log_p: [B, K] log-probabilities.
        targets: [B] int64.

    Returns:
        [B, K - 1], the other classes in order, normalized.
    """
    return F.log_softmax(_drop_target(log_p, targets), dim=1)


def _target_or_not(log_p: Tensor, targets: Tensor) -> Tensor:
    """[B, 2]: ln p_y and ln(1 - p_y)."""
    target = log_p.gather(1, targets[:, None])
    return torch.cat([target, _drop_target(log_p, targets).logsumexp(dim=1, keepdim=True)], dim=1)


def _drop_target(values: Tensor, targets: Tensor) -> Tensor:
    # gather instead of a boolean mask, whose size is unknown without synchronizing.
    column = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, column + (column >= targets[:, None]))


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
