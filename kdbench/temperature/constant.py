"""One temperature for the whole run: the baseline of every comparison."""

from kdbench.progress import Progress
from kdbench.temperature.base import Schedule, require_temperature


class Constant(Schedule):
    """The fixed temperature of classical distillation.

    Rule: T_t = T_s = tau, scale = tau^2.
    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
        arXiv 1503.02531, section 2.
    Shapes and ranges: tau > 0; large tau approaches logit regression.
    Gradient: none.
    Deviations: none.
    """

    def __init__(self, tau: float) -> None:
        super().__init__()
        require_temperature(tau=tau)
        self.tau = tau

    def tau_at(self, progress: Progress) -> float:
        """The constant."""
        return self.tau
