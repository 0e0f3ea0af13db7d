"""A temperature that follows half a cosine during training."""

import math

from kdbench.progress import Progress
from kdbench.temperature.base import (
    Schedule,
    require_fraction,
    require_positive,
    require_temperature,
)


class Cosine(Schedule):
    """From ``start`` to ``end`` along half a cosine, then constant.

    Rule: T = end + (start - end) * (1 + cos(pi * min(fraction / until, 1))) / 2; scale = T^2.
    Source: cosine annealing as in Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, applied
        to the temperature.
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
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * part)) / 2
