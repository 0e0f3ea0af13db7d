"""The loss seam: read this first."""

from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.part import Part


class DistillLoss(Part):
    """A distillation loss. Subclasses implement ``forward``.

    A loss that compares samples with each other gives its value once for each of them, times the
    batch mean of the scale. One that learns (adapters, projections, memories) keeps what it learns
    as parameters, modules and buffers of its own, made in its constructor or, where it takes the
    shapes of features, in ``adapt``.

    Attributes:
        weight_decay: None: what a loss learns decays as the student does, unless its YAML states
            another value.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        """Loss of each sample; of the batch, the same for each sample, where it relates samples.

        Args:
            outputs: of the term's view; float32 or wider, the teacher's without gradient.
            temperatures: of this batch.

        Returns:
            [B], not yet weighted.
        """
        raise NotImplementedError
