"""Logit regression: squared differences of temperature-scaled logits, without any softmax."""

from torch import Tensor

from kdbench.objective.base import DistillLoss
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import scale_both


class MSE(DistillLoss):
    """Mean squared difference between the scaled logits of teacher and student.

    Rule: loss_b = scale_b * mean_c (u_t - u_s)^2 with u_t = z_t / T_t, u_s = z_s / T_s.
    Source: Ba, Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, arXiv 1312.6184;
        with a temperature of the teacher alone, phase I of Jafari et al., "Annealing Knowledge
        Distillation", EACL 2021, arXiv 2104.07163 (T_t = 1 / phi, T_s = 1, scale 1).
    Scale: where T_t = T_s and the scale is its square, the two cancel: a constant temperature or
        any other common schedule regresses the raw logits. Temperatures matter where teacher and
        student have different ones, or where the scale is not their product.
    Gradient: to the student's logits, and to whatever part of the temperatures and the scale a
        strategy leaves in the graph.
    Range: >= 0.
    Deviations: the mean over classes is that of the released codes; the papers write a sum, which
        is a weight K times as large. A constant added to a row counts, unlike in all losses that
        go through a softmax.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        teacher, student = scale_both(outputs, temperatures)
        return temperatures.scale * (teacher - student).square().mean(dim=1)
