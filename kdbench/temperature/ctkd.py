"""A temperature that learns to make distillation progressively harder."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    dtype_of,
    require_fraction,
    require_positive,
    require_temperature,
)

CtkdMode = Literal["global", "instance"]


class CTKD(TemperatureStrategy):
    """Learns the temperature adversarially, with a reversed gradient.

    Rule: T_t = T_s = T = tau_min + tau_range * sigmoid(theta), scale = T^2. The gradient to theta
        is multiplied by -lambda(e), lambda(e) = (1 - cos(pi * min(e, E) / E)) / 2, with the 1-based
        epoch e and E = loops. mode="global": theta is one number. mode="instance": a two-layer
        network computes theta_b from both predictions on a sample.
    Source: Li et al., "Curriculum Temperature for Knowledge Distillation", AAAI 2023,
        arXiv 2211.16231.
    Shapes and ranges: T shared (global) or per sample (instance), tau_min <= T <= tau_min +
        tau_range. A saturated sigmoid stops learning, not the run; the logged temperature shows it.
    Gradient: reversed, through T and the factor T^2, to theta or the network's weights; none to
        the student's logits through T.
    Deviations: theta has its own optimizer group, with the student's learning rate and its own
        weight_decay. In the released code it is in the student's group, where the decay pulls theta
        to 0 and T to tau_min + tau_range / 2. The released reversal multiplies by a schedule from 0
        to -1, which is the same product. The instance network is not released; choices made here:
        both networks' probabilities at temperature 1 as inputs (2K), without gradient; one hidden
        layer with ReLU; PyTorch's initialization, except theta_init as the last bias; 1e-7 is not
        added to the teacher's probabilities.
    """

    def __init__(
        self,
        mode: CtkdMode,
        tau_min: float,
        tau_range: float,
        theta_init: float,
        loops: int,
        weight_decay: float,
        hidden: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        require_positive(tau_range=tau_range, loops=loops, hidden=hidden)
        require_temperature(tau_min=tau_min, **{"tau_min + tau_range": tau_min + tau_range})
        require_fraction(weight_decay=weight_decay)
        if mode not in get_args(CtkdMode):
            raise ValueError(f"mode must be one of {', '.join(get_args(CtkdMode))}, found {mode!r}")
        self.mode, self.tau_min, self.tau_range = mode, tau_min, tau_range
        self.loops, self.weight_decay, self.num_classes = loops, weight_decay, num_classes
        if mode == "global":
            self.theta = nn.Parameter(torch.tensor(float(theta_init)))
        else:
            last = nn.Linear(hidden, 1)
            nn.init.constant_(last.bias, theta_init)
            self.network = nn.Sequential(nn.Linear(2 * num_classes, hidden), nn.ReLU(), last)

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        teacher, student = outputs.logits
        theta = self._theta(teacher, student.detach()).to(student.dtype)
        theta = reverse_gradient(theta, self.strength_at(progress.epoch))
        temperature = self.tau_min + self.tau_range * theta.sigmoid()
        return Temperatures(temperature, temperature, temperature.square().squeeze(1))

    def strength_at(self, epoch: int) -> float:
        """The factor lambda in the 0-based ``epoch``: close to 0 at first, 1 after ``loops``."""
        return (1 - math.cos(math.pi * min((epoch + 1) / self.loops, 1.0))) / 2

    def _theta(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        if self.mode == "global":
            return self.theta.expand(len(student_logits), 1)
        classes = student_logits.shape[1]
        if classes != self.num_classes:
            raise ValueError(
                f"the logits have {classes} classes, but temperature.num_classes="
                f"{self.num_classes}; load the objective with temperature.num_classes={classes}"
            )
        predictions = [logits.softmax(dim=1) for logits in (teacher_logits, student_logits)]
        inputs = torch.cat(predictions, dim=1)
        return self.network(inputs.to(dtype_of(self.network, inputs)))


def reverse_gradient(value: Tensor, strength: float) -> Tensor:
    """Returns exactly ``value``; its gradient is multiplied by ``-strength``."""
    constant = value.detach()
    return constant - strength * (value - constant)
