"""A random temperature: the control for methods that adapt the temperature."""

from typing import Literal, get_args

import torch

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures, TemperatureStrategy, require_temperature

Per = Literal["sample", "batch"]


class Random(TemperatureStrategy):
    """Draws each temperature uniformly, independent of the logits.

    Rule: T_t = T_s = low + (high - low) * u, u uniform in [0, 1); scale = T^2.
    Source: no paper; a strategy that uses the logits has to beat this one to show that it helps.
    Shapes and ranges: one u per sample (per="sample") or per batch (per="batch");
        0 < low <= T <= high.
    Gradient: none.
    Deviations: none.

    The numbers come from torch's global generator, which has the learner's state during its step.
    Both options draw equally many, so that later draws do not depend on ``per``.
    """

    def __init__(self, low: float, high: float, per: Per) -> None:
        super().__init__()
        require_temperature(low=low, high=high)
        if low > high:
            raise ValueError(f"low must not exceed high, found low={low} and high={high}")
        if per not in get_args(Per):
            raise ValueError(f"per must be one of {', '.join(get_args(Per))}, found {per!r}")
        self.low, self.high, self.per = low, high, per

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        drawn = torch.rand_like(outputs.logits[0][:, :1])
        if self.per == "batch":
            drawn = drawn[:1].expand_as(drawn)
        temperature = self.low + (self.high - self.low) * drawn
        return Temperatures(temperature, temperature, temperature.square().squeeze(1))
