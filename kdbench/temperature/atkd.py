"""The smallest temperature at which a softmax is nearly linear in standardized logits."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures, TemperatureStrategy, require_positive
from kdbench.temperature.logit_std import spread

# 1 / (sqrt(3) - 1): the second-order expansion of exp(u) is usable up to u + u^2 / 2 = 1.
FACTOR = (1 + math.sqrt(3)) / 2

AtkdMode = Literal["both_abs", "teacher_abs", "teacher_max"]
PEAKS: dict[AtkdMode, Callable[[Tensor, Tensor], Tensor]] = {
    "both_abs": lambda teacher, student: torch.maximum(teacher.abs(), student.abs()),
    "teacher_abs": lambda teacher, student: teacher.abs(),
    "teacher_max": lambda teacher, student: teacher,
}


class ATKD(TemperatureStrategy):
    """Sets each sample's temperature by the largest of its standardized logits.

    Rule: Z(z) = (z - mean(z)) / (std(z) + eps), M = max_c max(|Z(z_t)|, |Z(z_s)|),
        T = (1 + sqrt(3)) / 2 * M on standardized logits; equivalently, on raw logits,
        T_t = T * (std(z_t) + eps), T_s = T * (std(z_s) + eps), scale = T^2.
    Source: Matsuyama, Anjum, Matsuyama, Shoda, Zhan, "Adaptive Temperature Based on Logits
        Correlation in Knowledge Distillation", arXiv 2503.09030.
    Shapes and ranges: one T per sample, unbiased std over the K >= 2 classes of a row. In the
        modes "*_abs" T lies between FACTOR * sqrt((K - 1) / K) and FACTOR * (K - 1) / sqrt(K); in
        "teacher_max" the lower end is FACTOR / sqrt(K). T >= tau_min and std >= std_min always.
    Gradient: through the student's standard deviation in T_s, as for a z-score; T and scale are
        constants.
    Deviations: mode="both_abs" is the released code (M of both networks). The paper's text uses
        only the teacher: mode="teacher_abs" takes M = max_c |Z(z_t)|, mode="teacher_max"
        M = max_c Z(z_t). The released rule applies only to standardized logits; this one always.
        For constant rows it gives T = 0: here a standard deviation below std_min counts as 1,
        and T is at least tau_min.
    """

    def __init__(self, mode: AtkdMode, eps: float, tau_min: float, std_min: float) -> None:
        super().__init__()
        require_positive(eps=eps, tau_min=tau_min, std_min=std_min)
        if mode not in PEAKS:
            raise ValueError(f"mode must be one of {', '.join(PEAKS)}, found {mode!r}")
        self.mode, self.eps, self.tau_min, self.std_min = mode, eps, tau_min, std_min

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        teacher, student = outputs.logits
        teacher_std = spread(teacher, self.std_min) + self.eps
        student_std = spread(student, self.std_min) + self.eps
        with torch.no_grad():
            teacher_z = (teacher - teacher.mean(dim=1, keepdim=True)) / teacher_std
            student_z = (student - student.mean(dim=1, keepdim=True)) / student_std
            peak = PEAKS[self.mode](teacher_z, student_z).amax(dim=1, keepdim=True)
            base = (FACTOR * peak).clamp(min=self.tau_min)
        return Temperatures(base * teacher_std, base * student_std, base.square().squeeze(1))
