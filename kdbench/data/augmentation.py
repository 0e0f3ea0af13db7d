"""The augmentation of the 32x32 benchmarks, as a numbered list of views."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbench.data.randomness import VIEW, hash64
from kdbench.errors import ConfigError


@dataclass(frozen=True)
class CropFlip:
    """Random crop of a zero-padded image, then a horizontal flip with probability 1/2.

    An image has ``(2 pad + 1)^2`` crops, each with or without the flip, so a view has a number:
    ``view = (dy * (2 pad + 1) + dx) * 2 + flip`` with 0 <= dy, dx <= 2 pad the position of the
    crop in the padded image (without the factor 2 where ``flip`` is off). All are equally likely,
    as in torchvision's ``RandomCrop(H, padding=pad)`` and ``RandomHorizontalFlip()``.

    Attributes:
        pad: rows and columns of zeros on each side, >= 0.
        flip: whether to flip images at all.
    """

    pad: int
    flip: bool

    def __post_init__(self) -> None:
        if type(self.pad) is not int or self.pad < 0:
            raise ConfigError(
                f"dataset.augmentation.pad={self.pad!r} must be a whole number of pixels >= 0"
            )
        if type(self.flip) is not bool:
            raise ConfigError(f"dataset.augmentation.flip={self.flip!r} must be true or false")

    @property
    def num_views(self) -> int:
        """Number of views of an image."""
        return (2 * self.pad + 1) ** 2 * (1 + self.flip)

    def draw(
        self, data_seed: int, epoch: int, index: np.ndarray, purpose: int = VIEW
    ) -> np.ndarray:
        """Draws the views of samples in one epoch, uniformly over all views.

        Args:
            data_seed: the views are a function of it, the epoch and the index.
            epoch: 0-based.
            index: [N] the samples.
            purpose: which random stream to use: one of the constants in ``randomness``.

        Returns:
            [N] int64 view numbers.
        """
        bits = hash64(data_seed, epoch, purpose, index)
        return (bits % np.uint64(self.num_views)).astype(np.int64)

    def decode(self, view: Any) -> tuple[Any, Any, Any]:
        """(dy, dx, flip) of a view number: an int, or an integer array or tensor of any shape."""
        crop, flip = view // (1 + self.flip), view % (1 + self.flip)
        side = 2 * self.pad + 1
        return crop // side, crop % side, flip
