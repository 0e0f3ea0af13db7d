"""The interface of a strong augmentation: the second view, for methods that compare two views.

``view=NAME`` is ``conf/view/NAME.yaml``, is a class in ``kdbench/data/NAME.py``.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # constructing one needs no torch: a run is named without it
    import numpy as np
    from torch import Tensor


class StrongAugmentation(Protocol):
    """What ``conf/view/*.yaml`` instantiates."""

    @property
    def own_crop(self) -> bool:
        """Whether crop and flip are drawn independently of the weak view's."""
        ...

    def __call__(
        self, images: "Tensor", data_seed: int, epoch: int, index: "np.ndarray"
    ) -> "Tensor":
        """Augments images that are cropped and flipped.

        Args:
            images: [B, H, W, C] uint8, on any device.
            data_seed: with epoch and index, all that randomness depends on.
            epoch: 0-based.
            index: [B] int64, the samples.

        Returns:
            [B, H, W, C] uint8 on the same device.
        """
        ...
