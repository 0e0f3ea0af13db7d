"""Temperatures proportional to the standard deviation of each row of logits."""

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_positive,
    require_temperature,
)
from kdbench.temperature.logit_std import spread


class NormKD(TemperatureStrategy):
    """Softens every row by its own standard deviation and weights by the teacher's.

    Rule: T_t = tau * std(z_t), T_s = tau * std(z_s), scale = T_t^2.
    Source: Chi, Zheng, Li, Yang, Wu, Lin, Cai, "NormKD: Normalized Logits for Knowledge
        Distillation", arXiv 2308.00520.
    Shapes and ranges: unbiased std over the K >= 2 classes of a row; T >= tau * std_min. The
        softmaxes are those of logit standardization; the weight differs.
    Gradient: through the student's standard deviation; scale depends on the teacher only.
    Deviations: the released code divides a constant row by 0: here a standard deviation below
        std_min counts as 1.
    """

    def __init__(self, tau: float, std_min: float) -> None:
        super().__init__()
        require_temperature(tau=tau)
        require_positive(std_min=std_min)
        self.tau, self.std_min = tau, std_min

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        teacher, student = (self.tau * spread(logits, self.std_min) for logits in outputs.logits)
        return Temperatures(teacher, student, teacher.square().squeeze(1))
