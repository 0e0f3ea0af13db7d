"""Two temperatures that learn from the effect of a distillation step on the cross-entropy."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_positive,
    require_temperature,
)
from kdbench.temperature.soften import soften


class Meta(TemperatureStrategy):
    """Learns temperatures at which a distillation step reduces the cross-entropy most.

    Rule: T_t = exp(a), T_s = exp(b), scale = T_t * T_s. After each step, on its batch:
        L_in = mean_b KL(softmax(z_t / T_t) || softmax(z_s / T_s)),
        z' = z_s - inner_lr * dL_in/dz_s,
        (a, b) <- (a, b) - meta_lr * dCE(z', y)/d(a, b), clamped to tau_min <= T <= tau_max.
    Source: Liu, Liu, Li, Yu, "Meta Knowledge Distillation", arXiv 2202.07940.
    Shapes and ranges: one temperature per network, both in [tau_min, tau_max]. A lower T_s also
        means a longer look-ahead, so both tend to fall towards tau_min. Steps are taken only on
        batches whose student logits require a gradient.
    Gradient: none to the student through T or scale. The two parameters get theirs from the
        cross-entropy through the inner gradient (second order), and are stepped here.
    Deviations: no code is released. The paper says that both temperatures are meta-parameters that
        follow the gradient of the learning objective; everything else is a choice made here. The
        exponential makes steps relative to T. The look-ahead moves the logits instead of the
        weights, which would need a second pass through the student, and is evaluated with the
        labels of the same batch. Its loss has no factor T_t * T_s; the training loss has it, so
        that the size of its gradient hardly depends on T, as with tau^2, to which it is equal if
        T_t = T_s.
    """

    trains_itself = True

    def __init__(
        self,
        teacher_init: float,
        student_init: float,
        tau_min: float,
        tau_max: float,
        inner_lr: float,
        meta_lr: float,
    ) -> None:
        super().__init__()
        require_temperature(tau_min=tau_min, tau_max=tau_max)
        require_positive(inner_lr=inner_lr, meta_lr=meta_lr)
        for name, tau in (("teacher_init", teacher_init), ("student_init", student_init)):
            if not tau_min <= tau <= tau_max < math.inf:
                raise ValueError(
                    f"{name} must lie between tau_min={tau_min} and tau_max={tau_max}, found {tau}"
                )
        self.log_tau = nn.Parameter(torch.tensor([teacher_init, student_init]).log())
        self.bounds = math.log(tau_min), math.log(tau_max)
        self.inner_lr, self.meta_lr = inner_lr, meta_lr
        self._sees_training = False  # whether the last batch was a training batch

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        logits = outputs.student.logits
        self._sees_training = self._sees_training or logits.requires_grad
        tau = self.log_tau.detach().exp().to(logits.dtype)
        teacher, student = tau.expand(len(logits), 2).split(1, dim=1)
        return Temperatures(teacher, student, (teacher * student).squeeze(1))

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Takes one step on the two temperatures."""
        if not self._sees_training:
            return
        self._sees_training = False
        with torch.enable_grad():
            ce = look_ahead(outputs, self.log_tau.exp(), self.inner_lr)
            (gradient,) = torch.autograd.grad(ce, self.log_tau)
        with torch.no_grad():
            self.log_tau.sub_(self.meta_lr * gradient).clamp_(*self.bounds)


def look_ahead(outputs: Outputs, tau: Tensor, step: float) -> Tensor:
    """Cross-entropy after one distillation step on the logits themselves.

    Args:
        outputs: of the batch.
        tau: [2] temperatures of teacher and student.
        step: learning rate of that step.

    Returns:
        Scalar, differentiable with respect to ``tau``.
    """
    teacher_logits, student_logits = outputs.logits
    logits = student_logits.detach().requires_grad_()
    teacher, student = tau.expand(len(logits), 2).split(1, dim=1)
    log_p, log_q = soften(teacher_logits, teacher), soften(logits, student)
    inner = (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(inner, logits, create_graph=True)
    return F.cross_entropy(logits - step * gradient, outputs.targets)
