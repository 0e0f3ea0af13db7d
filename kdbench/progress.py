"""Training progress: the only notion of time that strategies, ramps and schedules see."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Position in a training run.

    Attributes:
        step: optimizer steps taken before this one, 0 <= step <= total_steps.
        total_steps: optimizer steps of the whole run, >= 1.
        epoch: 0-based epoch of this step, <= total_epochs.
        total_epochs: epochs of the whole run, >= 1.
    """

    step: int
    total_steps: int
    epoch: int
    total_epochs: int

    def __post_init__(self) -> None:
        for name, total in (("step", "total_steps"), ("epoch", "total_epochs")):
            value, whole = getattr(self, name), getattr(self, total)
            if not isinstance(value, int) or not isinstance(whole, int):
                continue  # tensors of a captured step: reading them would synchronize
            if whole < 1 or not 0 <= value <= whole:
                raise ValueError(
                    f"0 <= {name} <= {total} and {total} >= 1 must hold, found {name}={value} and "
                    f"{total}={whole}"
                )

    @property
    def fraction(self) -> float:
        """Finished fraction of the run: 0.0 at the first step, 1.0 after the last."""
        return self.step / self.total_steps


# For callers without a training loop: correct if nothing is scheduled or ramped.
START = Progress(step=0, total_steps=1, epoch=0, total_epochs=1)
