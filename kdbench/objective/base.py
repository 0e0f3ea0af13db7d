"""The interface of distillation losses: read this first."""

from torch import Tensor

from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures
from kdbench.temperature.part import Part


class DistillLoss(Part):
    """A distillation loss. Subclasses implement ``forward``.

    A loss that compares samples with each other returns the same value for each of them, times the
    batch mean of the scale. Learnable state (adapters, projections, memories) lives in parameters,
    modules and buffers, created in the constructor or, if it depends on feature shapes, in
    ``adapt``.

    Attributes:
        weight_decay: None: the loss's parameters decay like the student's unless its YAML sets
            another value.
    """

    def forward(self, outputs: Outputs, temperatures: Temperatures) -> Tensor:
        """Per-sample loss; the same value for each sample if the loss relates samples.

        Args:
            outputs: of the term's view; float32 or wider, the teacher's without gradient.
            temperatures: of this batch.

        Returns:
            [B], unweighted.
        """
        raise NotImplementedError
