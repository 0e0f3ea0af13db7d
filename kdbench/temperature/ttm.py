"""A power transform of the teacher only."""

import torch

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_fraction,
    require_positive,
)


class TTM(TemperatureStrategy):
    """Softens the teacher by a power of its probabilities; the student is unchanged.

    Rule: p_hat = p^exponent / sum_c p^exponent = softmax(exponent * z_t), hence
        T_t = 1 / exponent, T_s = 1, scale = 1.
    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching",
        ICLR 2024, arXiv 2402.11148.
    Shapes and ranges: the same for all samples; 0 < exponent <= 1, so T_t >= 1.
    Gradient: none; the loss is not multiplied by a squared temperature.
    Deviations: none in value. The released code takes powers of probabilities; dividing the logits
        is equivalent, without underflow.
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        require_positive(exponent=exponent)
        require_fraction(exponent=exponent)
        self.exponent = exponent

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        one = torch.ones_like(outputs.logits[0][:, :1])
        return Temperatures(torch.full_like(one, 1 / self.exponent), one, one.squeeze(1))
