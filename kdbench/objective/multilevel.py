"""Wrappers of Multi-level Logit Distillation: several temperatures, and a confidence mask."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.progress import START
from kdbench.temperature.base import Temperatures, TemperatureStrategy
from kdbench.temperature.logit_std import spread
from kdbench.temperature.soften import soften


class PredictionAugmentation(DistillLoss):
    """A loss, summed over several temperatures.

    Rule: sum over T in {the temperature of the strategy, others} of loss at T.
    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023: T in {4, 2, 3, 5, 6}.

    Args:
        loss: applied at each temperature.
        base: whether to include the temperatures of the term's own strategy.
        others: further strategies; they always see the first step, so schedules have no effect.
    """

    others: nn.ModuleList

    def __init__(
        self, loss: DistillLoss, base: bool, others: Sequence[TemperatureStrategy]
    ) -> None:
        if not base and not others:
            raise ValueError("base is false and others is empty: there is no temperature; set one")
        super().__init__()
        self.loss, self.base, self.others = loss, base, nn.ModuleList(others)

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        every = [temperatures] if self.base else []
        every += [strategy(outputs, START) for strategy in self.others]
        return torch.stack([self.loss(outputs, one) for one in every]).sum(dim=0)


Over = Literal["samples", "classes"]


class MedianMask(DistillLoss):
    """A loss, multiplied by the fraction of samples or classes that pass MLKD's confidence mask.

    Rule: over="samples": factor = mean_b [max_c p_bc <= median_b max_c p_bc]; over="classes":
        factor = mean_c [sum_b p_bc <= median_c sum_b p_bc]; p = softmax(z_t) at temperature 1.
    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023, released code.
    Deviations: the paper selects samples; the released code, which produced the published numbers,
        multiplies a loss that is already a mean, so the mask is a factor of about 0.5.

    Args:
        loss: any distillation loss.
        over: "samples" or "classes".
        standardise: whether the mask uses z-scored teacher logits (released code of ATKD).
    """

    def __init__(self, loss: DistillLoss, over: Over, standardise: bool) -> None:
        if over not in get_args(Over):
            raise ValueError(f"over must be one of {', '.join(get_args(Over))}, found {over!r}")
        super().__init__()
        self.loss, self.standardise = loss, standardise
        self.confidence: Callable[[Tensor], Tensor] = (
            (lambda p: p.amax(dim=1)) if over == "samples" else (lambda p: p.sum(dim=0))
        )

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        value = self.loss(outputs, temperatures)
        logits = outputs.logits[0]
        if self.standardise:  # a softmax is invariant to the mean that a z-score subtracts
            logits = soften(logits, spread(logits, std_min=1e-6))
        confidence = self.confidence(logits.softmax(dim=1))
        return value * (confidence <= confidence.quantile(0.5)).to(value.dtype).mean()
