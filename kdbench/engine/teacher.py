"""The teacher: frozen, and asked once per batch."""

from typing import Self

import torch
from torch import Tensor, nn

from kdbench.data.base import DataModule
from kdbench.engine.device import Compute
from kdbench.errors import CheckpointError


class Teacher(nn.Module):
    """A network that answers and never changes.

    Args:
        network: with its weights loaded.
        compute: device, precision and memory format.
        digest: SHA-256 over its sorted state dict.
    """

    def __init__(self, network: nn.Module, compute: Compute, digest: str) -> None:
        super().__init__()
        self.network = compute.place(network.requires_grad_(False))
        self.compute, self.digest = compute, digest
        self._answers: dict[str, tuple[Tensor, Tensor]] = {}
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked: batch statistics must not move."""
        return super().train(False)

    # Not inference_mode: its tensors may not be saved for backward, and losses save the logits.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, K] float32 logits."""
        return self.compute.forward(self.network, images)

    def split_logits(self, data: DataModule, split: str) -> tuple[Tensor, Tensor]:
        """[N, K] logits and [N] targets of a whole evaluation split, computed once."""
        if split not in self._answers:
            batches = [(self(b.images), b.targets) for b in data.eval_batches(split)]
            logits, targets = zip(*batches, strict=True)
            self._answers[split] = torch.cat(logits), torch.cat(targets)
        return self._answers[split]


def require_accuracy(
    measured: float, expected: float | None, tolerance: float, num_classes: int, source: str
) -> None:
    """Refuses a teacher that is not as good as it should be.

    A wrong normalisation or class order leaves a network that runs and teaches nonsense.

    Args:
        measured: test accuracy here, percent.
        expected: percent; None if nobody says.
        tolerance: percentage points.
        num_classes: chance is 100 / num_classes percent.
        source: the file, for the message.

    Raises:
        CheckpointError: too far below what is expected, or near chance.
    """
    remedy = (
        "likely causes are another normalisation, class order or dataset than the teacher was "
        "trained with; if the accuracy is right, set teacher.expected_top1 to it"
    )
    if expected is not None and measured < expected - tolerance:
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, expected are "
            f"{expected:.2f} % (teacher.tolerance={tolerance}): {remedy}"
        )
    chance = 100 / num_classes
    if expected is None and measured < 1.5 * chance:
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, chance is "
            f"{chance:.2f} %: {remedy}"
        )
