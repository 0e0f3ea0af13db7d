"""Interface of strong augmentations: the second view, for methods that compare two views.

``view=NAME`` is ``conf/view/NAME.yaml`` and a class in ``kdbench/data/NAME.py``.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # constructing one needs no torch
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
        """Augments cropped and flipped images.

        Args:
            images: [B, H, W, C] uint8, on any device.
            data_seed: the randomness is a function of it, the epoch and the index.
            epoch: 0-based.
            index: [B] int64, the samples.

        Returns:
            [B, H, W, C] uint8 on the same device.
        """
        ...
