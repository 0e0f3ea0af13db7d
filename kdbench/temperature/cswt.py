"""Temperatures from the agreement of teacher and student."""

import torch
import torch.nn.functional as F

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_positive,
    require_temperature,
)


class CSWT(TemperatureStrategy):
    """Gives higher temperatures to samples on which teacher and student agree less.

    Rule: s_b = <p_b, q_b> / (|p_b| |q_b| + eps) with p = softmax(z_t), q = softmax(z_s);
        T_t = T_s = low + (high - low) * (max_b s - s_b) / (max_b s - min_b s),
        scale = (mean_b T)^2 for every sample.
    Source: Ham, Kim, Lee, Lee, Kim, "Cosine Similarity Knowledge Distillation for Individual
        Class Information Transfer", arXiv 2311.14307.
    Shapes and ranges: one T per sample in [low, high]; it depends on the rest of the batch, and
        both ends are reached if similarities differ. Each process ranks its own batch.
    Gradient: none; similarities are computed from constants.
    Deviations: follows a third-party implementation, as the paper does not specify the temperature.
        It divides by zero if all similarities are equal, as in a batch of one: here, if they are
        all within span_min of each other, every sample gets (low + high) / 2.
    """

    def __init__(self, low: float, high: float, eps: float, span_min: float) -> None:
        super().__init__()
        require_temperature(low=low, high=high)
        require_positive(eps=eps, span_min=span_min)
        if low > high:
            raise ValueError(f"low must not exceed high, found low={low} and high={high}")
        self.low, self.high, self.eps, self.span_min = low, high, eps, span_min

    @torch.no_grad()
    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        p, q = (F.softmax(logits, dim=1) for logits in outputs.logits)
        norms = p.norm(dim=1, keepdim=True) * q.norm(dim=1, keepdim=True)
        similarity = (p * q).sum(dim=1, keepdim=True) / (norms + self.eps)
        worst, best = similarity.aminmax()
        span = best - worst
        distance = (best - similarity) / span.clamp(min=self.span_min)
        distance = torch.where(span < self.span_min, 0.5, distance)
        temperature = self.low + (self.high - self.low) * distance
        scale = temperature.mean().square().expand(len(temperature))
        return Temperatures(temperature, temperature, scale)
