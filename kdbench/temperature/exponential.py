"""A temperature that changes by a constant factor per step."""

from kdbench.progress import Progress
from kdbench.temperature.base import (
    Schedule,
    require_fraction,
    require_positive,
    require_temperature,
)


class Exponential(Schedule):
    """From ``start`` to ``end`` geometrically, then constant.

    Rule: T = start * (end / start)^min(fraction / until, 1); scale = T^2.
    Source: plain geometric decay, given by its end points instead of a rate, so that it does not
        depend on the number of steps.
    Shapes and ranges: start, end > 0; 0 < until <= 1 is the fraction of training in which T moves.
    Gradient: none.
    Deviations: none.
    """

    def __init__(self, start: float, end: float, until: float) -> None:
        super().__init__()
        require_temperature(start=start, end=end)
        require_positive(until=until)
        require_fraction(until=until)
        self.start, self.end, self.until = start, end, until

    def tau_at(self, progress: Progress) -> float:
        """Temperature at this point of training."""
        part = min(progress.fraction / self.until, 1.0)
        return self.start * (self.end / self.start) ** part
