"""Logit regression: squared differences of temperature-scaled logits, without a softmax."""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import scale_both


class MSE(DistillLoss):
    """Mean squared difference between the scaled logits of teacher and student.

    Rule: loss_b = scale_b * mean_c (u_t - u_s)^2 with u_t = z_t / T_t, u_s = z_s / T_s.
    Source: Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, arXiv 1312.6184;
        with a teacher temperature only, phase I of Jafari et al., "Annealing Knowledge
        Distillation", EACL 2021, arXiv 2104.07163 (T_t = 1 / phi, T_s = 1, scale 1).
    Scale: if T_t = T_s and the scale is its square, they cancel: a constant temperature or any
        other shared schedule regresses the raw logits. Temperatures matter if teacher and student
        have different ones, or if the scale is not their product.
    Gradient: to the student's logits, and to temperatures and scale as far as the strategy keeps
        them in the graph.
    Range: >= 0.
    Deviations: takes the mean over classes, as the released code does; the papers write a sum,
        which equals a weight K times as large. A constant added to a row matters, unlike in all
        losses with a softmax.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        teacher, student = scale_both(outputs, temperatures)
        return temperatures.scale * (teacher - student).square().mean(dim=1)
