"""Logit regression: squared differences of temperature-scaled logits, without any softmax."""

from torch import Tensor

from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import scale_logits


class MSE:
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
    Deviations: the mean over classes is that of the released codes; the papers write a sum, which
        is a weight K times as large. A constant added to a row counts, unlike in all losses that
        go through a softmax.
    """

    def __call__(
        self,
        teacher_logits: Tensor,
        student_logits: Tensor,
        targets: Tensor,
        temperatures: Temperatures,
    ) -> Tensor:
        """Loss of each sample.

        Args:
            teacher_logits: [B, K] float32.
            student_logits: [B, K] float32.
            targets: [B] int64, not used by this loss.
            temperatures: of this batch.

        Returns:
            [B] scaled mean square, >= 0.
        """
        teacher = scale_logits(teacher_logits, temperatures.teacher)
        student = scale_logits(student_logits, temperatures.student)
        return temperatures.scale * (teacher - student).square().mean(dim=1)
