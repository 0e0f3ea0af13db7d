"""A temperature that changes at milestones."""

from collections.abc import Sequence

from kdbench.progress import Progress
from kdbench.temperature.base import (
    Schedule,
    require_fraction,
    require_positive,
    require_temperature,
)


class Step(Schedule):
    """Multiplies by ``gamma`` at every milestone.

    Rule: T = start * gamma^(number of milestones <= fraction); scale = T^2.
    Source: the step schedule of learning rates, applied to the temperature.
    Shapes and ranges: start, gamma > 0; milestones are increasing fractions of training in [0, 1].
    Gradient: none.
    Deviations: none.
    """

    def __init__(self, start: float, gamma: float, milestones: Sequence[float]) -> None:
        super().__init__()
        require_temperature(start=start)
        require_positive(gamma=gamma)
        for position, milestone in enumerate(milestones):
            require_fraction(**{f"milestones[{position}]": milestone})
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones must increase, found {list(milestones)}")
        self.start, self.gamma, self.milestones = start, gamma, tuple(milestones)

    def tau_at(self, progress: Progress) -> float:
        """Temperature at this point of training."""
        passed = sum(milestone <= progress.fraction for milestone in self.milestones)
        return self.start * self.gamma**passed
