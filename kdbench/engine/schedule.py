"""Learning-rate schedules as functions of progress.

They are stateless, so a resumed run continues exactly. Milestones are fractions of training, so a
shorter run keeps the shape of the recipe.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch.optim import Optimizer

from kdbench.progress import Progress
from kdbench.temperature.base import require_fraction, require_positive


class LearningRate:
    """Factor on the optimizer's learning rates over training, with a linear warmup.

    Args:
        warmup: fraction of training, in [0, 1], over which the factor grows from 0.
    """

    def __init__(self, warmup: float) -> None:
        require_fraction(warmup=warmup)
        self.warmup = warmup

    def shape(self, fraction: float) -> float:
        """Factor without warmup at this fraction of training."""
        raise NotImplementedError

    def factor(self, progress: Progress) -> float:
        """Factor at this step."""
        growing = (progress.step + 1) / max(self.warmup * progress.total_steps, 1)
        return min(growing, 1.0) * self.shape(progress.fraction)

    def apply(self, optimizer: Optimizer, progress: Progress) -> float:
        """Sets the learning rate of every group and returns the first group's."""
        factor = self.factor(progress)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return float(optimizer.param_groups[0]["lr"])


class MultiStep(LearningRate):
    """Multiplies by ``gamma`` at every milestone, a fraction of training.

    Source: recipe of RepDistiller and mdistiller on CIFAR: epochs 150, 180 and 210 of 240.
    """

    def __init__(self, milestones: Sequence[float], gamma: float, warmup: float) -> None:
        super().__init__(warmup)
        require_positive(gamma=gamma)
        for position, milestone in enumerate(milestones):
            require_fraction(**{f"milestones[{position}]": milestone})
        self.milestones, self.gamma = tuple(milestones), gamma

    def shape(self, fraction: float) -> float:
        """See ``LearningRate.shape``."""
        return self.gamma ** sum(milestone <= fraction for milestone in self.milestones)


class CosineDecay(LearningRate):
    """Cosine decay from 1 to ``floor``.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5.
    """

    def __init__(self, floor: float, warmup: float) -> None:
        super().__init__(warmup)
        require_fraction(floor=floor)
        self.floor = floor

    def shape(self, fraction: float) -> float:
        """See ``LearningRate.shape``."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * fraction)) / 2


class Phases(LearningRate):
    """Two phases of training; the second starts with a new optimizer state and its own schedule.

    Source: Jafari et al., "Annealing Knowledge Distillation", EACL 2021, released code.

    Args:
        switch: fraction of training, rounded to whole epochs, at which the second phase begins.
        first: schedule of the first phase, over which its progress runs from 0 to 1.
        second: likewise for the second phase.
    """

    def __init__(self, switch: float, first: LearningRate, second: LearningRate) -> None:
        super().__init__(warmup=0.0)
        require_fraction(switch=switch)
        self.switch, self.first, self.second = switch, first, second

    def factor(self, progress: Progress) -> float:
        """Factor at this step, from the schedule of its phase."""
        begin = self._begin(progress)
        if progress.step < begin:
            return self.first.factor(replace(progress, total_steps=begin))
        steps, total = progress.step - begin, progress.total_steps - begin
        return self.second.factor(replace(progress, step=steps, total_steps=total))

    def apply(self, optimizer: Optimizer, progress: Progress) -> float:
        """See ``LearningRate.apply``; the switch also resets the optimizer's momentum."""
        if progress.step == self._begin(progress):
            optimizer.state.clear()
        return super().apply(optimizer, progress)

    def _begin(self, progress: Progress) -> int:
        """The first step of the second phase, at an epoch boundary as for ramped terms."""
        steps_per_epoch = progress.total_steps // progress.total_epochs
        return round(self.switch * progress.total_epochs) * steps_per_epoch
