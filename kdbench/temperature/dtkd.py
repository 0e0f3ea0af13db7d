"""Separate temperatures for teacher and student, so that their scaled maxima are equal."""

import torch
from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_positive,
    require_temperature,
)


class DTKD(TemperatureStrategy):
    """Raises the temperature of the network with the larger maximum logit, lowers the other's.

    Rule: with x = max_c z_t and m = max_c z_s, delta = tau * (x - m) / (x + m),
        T_t = tau + delta = 2 x tau / (x + m), T_s = tau - delta = 2 m tau / (x + m),
        scale = T_t * T_s.
    Source: Wei and Bai, "Dynamic Temperature Knowledge Distillation", arXiv 2404.12711,
        equations 4 and 5.
    Shapes and ranges: per sample and network; T_t + T_s = 2 tau, both in
        [tau_min, 2 tau - tau_min].
    Gradient: through the student's maximum into T_t, T_s and scale; none where delta is clamped.
    Deviations: the authors state that their derivation of equations 4 and 5 is wrong and that they
        ran this rule; so does this class. Their rule divides by zero if x + m = 0 and gives a
        negative temperature and weight if x and m differ in sign: here the larger maximum then gets
        the highest temperature (both get tau if they are equal), and delta is clamped so that no
        temperature is below tau_min.
    """

    def __init__(self, tau: float, tau_min: float) -> None:
        super().__init__()
        require_temperature(tau=tau)
        require_positive(tau_min=tau_min)
        if tau_min >= tau:
            raise ValueError(f"tau_min must be below tau, found tau_min={tau_min} and tau={tau}")
        self.tau, self.tau_min = tau, tau_min

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        teacher_max, student_max = (z.max(dim=1, keepdim=True).values for z in outputs.logits)
        bound = self.tau - self.tau_min
        delta = (self.tau * imbalance(teacher_max, student_max)).clamp(-bound, bound)
        teacher, student = self.tau + delta, self.tau - delta
        return Temperatures(teacher, student, (teacher * student).squeeze(1))


def imbalance(first: Tensor, second: Tensor) -> Tensor:
    """(first - second) / (first + second) if the signs agree, else the sign of the difference.

    The sign is the limit of the quotient as the smaller of two positive numbers goes to zero.
    """
    same_sign = first.sign() * second.sign() > 0
    # Replaced before the division, whose derivative at 0 would turn the unused rows into NaN.
    total = torch.where(same_sign, first + second, 1.0)
    return torch.where(same_sign, (first - second) / total, (first - second).sign())
