"""Ramps: factors on the weight of a loss term during training."""

from kdbench.progress import Progress


class LinearRamp:
    """Warmup of the DKD family: the factor grows by 1/epochs per epoch, then stays 1.

    Rule: factor = min((epoch + 1) / epochs, 1) with the 0-based epoch.
    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, released code; also used by
        methods that build on it.
    """

    def __init__(self, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be >= 1, found {epochs}; omit the ramp for none")
        self.epochs = epochs

    def __call__(self, progress: Progress) -> float:
        """Factor on the term's weight, in (0, 1]."""
        return min((progress.epoch + 1) / self.epochs, 1.0)


class Phase:
    """Switches a term on for a part of training.

    Rule: factor = 1 where start <= (epoch / total_epochs) < end, else 0; counted in whole epochs.
    Source: the two phases of Jafari et al., "Annealing Knowledge Distillation", EACL 2021.
    """

    def __init__(self, start: float, end: float) -> None:
        if not 0 <= start < end <= 1:
            raise ValueError(f"0 <= start < end <= 1 must hold, found start={start} and end={end}")
        self.start, self.end = start, end

    def __call__(self, progress: Progress) -> float:
        """1.0 inside the phase, 0.0 outside."""
        first, last = (round(part * progress.total_epochs) for part in (self.start, self.end))
        return float(first <= progress.epoch < last)
