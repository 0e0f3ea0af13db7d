"""Temperatures from the standard deviation of each row of logits."""

from typing import Literal, get_args

import torch
from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures, TemperatureStrategy, require_positive
from kdbench.temperature.constant import Constant

Form = Literal["code", "paper"]


class LogitStandardization(TemperatureStrategy):
    """Softens standardized logits: the z-score is one temperature per sample and network.

    Rule: T_t = tau * (std(z_t) + eps), T_s = tau * (std(z_s) + eps), scale = tau^2. The mean is not
        subtracted, as a softmax is invariant to it. If tau is another strategy (such as CTKD), its
        temperatures are multiplied by std + eps and its scale is kept.
    Source: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024,
        arXiv 2403.01427.
    Shapes and ranges: std over the K >= 2 classes of a row; T >= tau * std_min.
    Gradient: through the student's standard deviation, and that of the strategy if tau is one; for
        a number, the scale is a constant.
    Deviations: form="code" is the released code (unbiased standard deviation, plus eps);
        form="paper" is the paper's algorithm (population standard deviation, no eps), whose
        temperatures are sqrt((K - 1) / K) times as high. For a constant row, code and paper divide
        by eps or by 0: here a standard deviation below std_min counts as 1. If tau is a strategy,
        it sees the raw logits.
    """

    def __init__(
        self, tau: float | TemperatureStrategy, form: Form, eps: float, std_min: float
    ) -> None:
        super().__init__()
        require_positive(eps=eps, std_min=std_min)
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, found {form!r}")
        self.base = tau if isinstance(tau, TemperatureStrategy) else Constant(tau)
        self.std_min = std_min
        self.eps, self.correction = (eps, 1) if form == "code" else (0.0, 0)

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        base = self.base(outputs, progress)
        teacher, student = (
            spread(logits, self.std_min, self.correction) + self.eps for logits in outputs.logits
        )
        return Temperatures(base.teacher * teacher, base.student * student, base.scale)


def spread(logits: Tensor, std_min: float, correction: int = 1) -> Tensor:
    """Standard deviation of each row; 1 if it is below ``std_min``.

    A constant row is the uniform distribution at any temperature; with 1 it has the gradient of
    distillation without standardization, instead of 0 / 0.

    Args:
        logits: [B, K], K >= 2.
        std_min: smallest standard deviation that is not rounding error, > 0.
        correction: 1 for the unbiased estimate, 0 for the population's.

    Returns:
        [B, 1], >= min(std_min, 1).
    """
    variance = logits.var(dim=1, keepdim=True, correction=correction)
    # Replaced before the square root, whose derivative at 0 is infinite.
    return torch.where(variance < std_min**2, 1.0, variance).sqrt()
