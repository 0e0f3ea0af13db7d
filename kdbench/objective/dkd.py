"""Decoupled distillation: what the teacher says of the target, and of all other classes.

The two losses are terms of their own, so that their weights and ramps stand in the objective's
YAML and their curves are separate. With the weights 1 and 1 - p_y they add up to ``KL``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften_both


class TCKD(DistillLoss):
    """Target-class term: KL divergence between the binary distributions "target or not".

    Rule: loss_b = scale_b * (p_y ln(p_y / q_y) + (1 - p_y) ln((1 - p_y) / (1 - q_y))), where
        p = softmax(z_t / T_t), q = softmax(z_s / T_s) and y is the target.
    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022,
        arXiv 2203.08679; the authors' mdistiller.
    Gradient: to the student's logits, and to whatever part of the temperatures and the scale a
        strategy leaves in the graph.
    Deviations: 1 - q_y is never formed. Its logarithm is a logsumexp over the other classes, so a
        target probability that rounds to 1 leaves loss and gradient finite.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (_target_or_not(each, outputs.targets) for each in both)
        return temperatures.scale * _divergence(log_p, log_q)


class NCKD(DistillLoss):
    """Non-target term: KL divergence between the distributions over the K - 1 other classes.

    Rule: loss_b = scale_b * sum_{c != y} p'_c (ln p'_c - ln q'_c); p' and q' are the softened
        distributions without the target, renormalised.
    Source: as ``TCKD``.
    Gradient: as ``TCKD``; none reaches the student's target logit.
    Deviations: the authors lower the target logit by 1000, which leaves the target a probability
        where logits are huge; here its column is dropped, with the same result elsewhere. With
        K = 2 nothing is left to compare and the loss is 0.
    """

    needs = frozenset({"labels"})

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        both = soften_both(outputs, temperatures)
        log_p, log_q = (without_target(each, outputs.targets) for each in both)
        return temperatures.scale * _divergence(log_p, log_q)


def without_target(log_p: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities given that the class is not the target.

    Args:
        log_p: [B, K] log-probabilities.
        targets: [B] int64.

    Returns:
        [B, K - 1], the other classes in their order, normalised.
    """
    return F.log_softmax(_drop_target(log_p, targets), dim=1)


def _target_or_not(log_p: Tensor, targets: Tensor) -> Tensor:
    """[B, 2]: ln p_y and ln(1 - p_y)."""
    target = log_p.gather(1, targets[:, None])
    return torch.cat([target, _drop_target(log_p, targets).logsumexp(dim=1, keepdim=True)], dim=1)


def _drop_target(values: Tensor, targets: Tensor) -> Tensor:
    # By gather and not by a boolean mask: the size is known without waiting for the device.
    column = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, column + (column >= targets[:, None]))


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
