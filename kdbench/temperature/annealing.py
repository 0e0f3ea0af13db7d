"""The decreasing temperature of Annealing-KD: the teacher's logits grow in steps."""

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    require_fraction,
    require_positive,
    require_temperature,
    uniform,
)


class Annealing(TemperatureStrategy):
    """Increases the teacher's scale in steps during phase I; afterwards it is 1.

    Rule: phi = k / tau_max with k = min(1 + floor(epoch * tau_max / n1), tau_max), n1 the epochs of
        phase I and the 0-based epoch; T_t = 1 / phi, T_s = 1, scale = 1. The paper's integer
        temperature is tau_max - k + 1, and phi = 1 - (temperature - 1) / tau_max.
    Source: Jafari, Rezagholizadeh, Sharma, Ghodsi, "Annealing Knowledge Distillation", EACL 2021,
        arXiv 2104.07163, section 3.
    Shapes and ranges: 1 <= T_t <= tau_max; tau_max >= 1; 0 < until <= 1 is phase I's fraction of
        the epochs.
    Gradient: none.
    Deviations: the released code steps every floor(n1 / tau_max) epochs, which is the same if
        tau_max divides n1; otherwise its counter exceeds tau_max, and for n1 < tau_max it fails.
    """

    def __init__(self, tau_max: int, until: float) -> None:
        super().__init__()
        require_temperature(tau_max=tau_max)
        require_positive(until=until)
        require_fraction(until=until)
        self.tau_max, self.until = tau_max, until

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        one = uniform(1.0, like=outputs.logits[0])
        return one._replace(teacher=one.teacher / self.scale_at(progress))

    def scale_at(self, progress: Progress) -> float:
        """The factor phi on the teacher's logits, in (0, 1]."""
        phase = max(round(self.until * progress.total_epochs), 1)
        return min(1 + progress.epoch * self.tau_max // phase, self.tau_max) / self.tau_max
