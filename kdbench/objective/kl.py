"""The distillation loss of Hinton et al.: per-sample KL divergence, teacher first."""

from torch import Tensor

from kdbench.temperature.base import Temperatures
from kdbench.temperature.soften import soften


class KL:
    """KL divergence from the softened teacher to the softened student.

    Rule: loss_b = scale_b * sum_c p_bc (ln p_bc - ln q_bc), p = softmax(z_t / T_t),
        q = softmax(z_s / T_s).
    Source: Hinton, Vinyals, Dean, arXiv 1503.02531, section 2; the constant temperature's scale
        tau^2 keeps the gradient's size independent of tau (section 2.1).
    Gradient: to the student's logits, and to whatever part of the temperatures and the scale a
        strategy leaves in the graph.
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
            [B] scaled divergence, >= 0 up to rounding.
        """
        log_p = soften(teacher_logits, temperatures.teacher)
        log_q = soften(student_logits, temperatures.student)
        return temperatures.scale * (log_p.exp() * (log_p - log_q)).sum(dim=1)
