"""Detects the first step with non-finite losses or temperatures, without synchronizing."""

import torch
from torch import Tensor

from kdbench.errors import NumericalError
from kdbench.objective.objective import LossTerms
from kdbench.progress import Progress

CUDA_INTERVAL = 50  # steps between two checks; each check synchronizes


class FiniteGuard:
    """Stores the values of the first bad step on the device.

    On the CPU every step is checked before the optimizer step. On CUDA the check runs every
    ``CUDA_INTERVAL`` steps and before every checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self._interval = CUDA_INTERVAL if device.type == "cuda" else 1
        self._names: list[str] = []
        self._summary: Tensor | None = None
        self._bad_step: Tensor | None = None

    @torch.no_grad()
    def watch(self, terms: LossTerms, progress: Progress) -> None:
        """Records one batch and checks it if due.

        Raises:
            NumericalError: a loss or temperature of this or an earlier step is not finite.
        """
        named = {name: loss.sum() for name, loss in terms.terms.items()}
        if terms.temperatures is not None:
            for who in ("teacher", "student"):
                low, high = getattr(terms.temperatures, who).aminmax()
                named |= {f"{who} temperature min": low, f"{who} temperature max": high}
        summary = torch.stack([value.double() for value in named.values()])
        if self._summary is None or self._bad_step is None:
            self._names, self._summary = list(named), summary
            self._bad_step = torch.full((), -1, device=summary.device)
        first = ~summary.isfinite().all() & (self._bad_step < 0)
        self._summary = torch.where(first, summary, self._summary)
        self._bad_step = torch.where(first, progress.step, self._bad_step)
        if progress.step % self._interval == 0:
            self.check()

    def check(self) -> None:
        """Synchronizes; raises NumericalError if any step so far was bad."""
        if self._bad_step is None or self._summary is None or self._bad_step.item() < 0:
            return
        values = dict(zip(self._names, self._summary.tolist(), strict=True))
        bad = [name for name, value in values.items() if not -torch.inf < value < torch.inf]
        shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise NumericalError(
            f"{', '.join(bad)} not finite at step {int(self._bad_step.item())} ({shown}). Try a "
            f"smaller optim.lr, run.precision=fp32, or another temperature; the last checkpoint "
            f"precedes this step"
        )
