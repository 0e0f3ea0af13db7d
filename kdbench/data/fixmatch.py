"""The strong view of FixMatch, as MLKD's authors use it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdbench.data.randomness import STRONG, uniform
from kdbench.errors import ConfigError

if TYPE_CHECKING:  # constructing it needs no torch
    from torch import Tensor

# As in the released program: operation in kdbench.data.pixels, range of its magnitude.
OPERATIONS: tuple[tuple[str, float, float], ...] = (
    ("autocontrast", 0.0, 1.0),
    ("brightness", 0.05, 0.95),
    ("color", 0.05, 0.95),
    ("contrast", 0.05, 0.95),
    ("equalize", 0.0, 1.0),
    ("identity", 0.0, 1.0),
    ("posterize", 4.0, 8.0),
    ("rotate", -30.0, 30.0),
    ("sharpness", 0.05, 0.95),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("solarize", 0.0, 256.0),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
)
_GRAY = (125, 123, 114)  # fill color of the cutout; grayscale images get its luma
_GRAY_LUMA = 123
_BLOCK = 1 << 22  # values processed at a time: more would not fit in the processor's caches


@dataclass(frozen=True, kw_only=True)
class FixMatch:
    """Random operations with random magnitudes, then always a gray cutout.

    Each of ``num_ops`` operations is drawn from 14 with replacement, its magnitude uniformly
    from its range. The cutout's side is uniform up to ``cutout`` of the image's side, its center
    uniform between the second pixel and the far edge, so it may extend beyond the image.
    Everything is a function of (data seed, epoch, sample).

    Source: Sohn et al., "FixMatch", NeurIPS 2020, as in the released program of MLKD (Jin, Wang,
    Lin, CVPR 2023), which takes a magnitude argument and ignores it.

    Attributes:
        num_ops: operations before the cutout, >= 0.
        cutout: largest side of the cutout, as a fraction of the image's side, 0 to 1.
        own_crop: whether crop and flip are drawn independently of the weak view's.
    """

    num_ops: int
    cutout: float
    own_crop: bool

    def __post_init__(self) -> None:
        where = "dataset.views.strong"
        if self.num_ops < 0:
            raise ConfigError(f"{where}.num_ops={self.num_ops} must be a whole number >= 0")
        if not 0 <= self.cutout <= 1:
            raise ConfigError(f"{where}.cutout={self.cutout} must be from 0 to 1")

    def __call__(self, images: "Tensor", data_seed: int, epoch: int, index: np.ndarray) -> "Tensor":
        """Augments cropped and flipped images: see ``kdbench.data.strong``."""
        import torch

        size = max(1, _BLOCK // images[:1].numel())
        planes = images.permute(0, 3, 1, 2)
        return torch.cat(
            [
                self._augment(part.contiguous(), data_seed, epoch, sample).permute(0, 2, 3, 1)
                for part, sample in zip(
                    planes.split(size), np.split(index, range(size, len(index), size)), strict=True
                )
            ]
        )

    def draw_operations(
        self, data_seed: int, epoch: int, index: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each of ``num_ops``: index into ``OPERATIONS`` [B] and magnitude [B] float64."""
        low, high = np.array([operation[1:] for operation in OPERATIONS]).T
        drawn = []
        for number in range(self.num_ops):
            first, second = (
                uniform(data_seed, epoch, STRONG, 3 + 2 * number + k, index) for k in range(2)
            )
            choice = (first * len(OPERATIONS)).astype(np.int64)
            drawn.append((choice, low[choice] + (high - low)[choice] * second))
        return drawn

    def draw_cutout(
        self, data_seed: int, epoch: int, index: np.ndarray, height: int, width: int
    ) -> np.ndarray:
        """[4, B] int64: x0, y0, x1, y1 of the gray rectangle, ends included."""
        side, u, v = (uniform(data_seed, epoch, STRONG, number, index) for number in range(3))
        side = self.cutout * side * width
        # The released program draws the center from 1 to the size, not from 0.
        corners = [
            np.maximum(0, size + (1 - size) * drawn - side / 2).astype(np.int64)
            for drawn, size in ((u, width), (v, height))
        ]
        ends = [
            np.minimum(size, corner + side).astype(np.int64)
            for corner, size in zip(corners, (width, height), strict=True)
        ]
        return np.stack([*corners, *ends])

    def _augment(self, images: "Tensor", data_seed: int, epoch: int, index: np.ndarray) -> "Tensor":
        import torch

        from kdbench.data.pixels import fill_rectangles

        for choice, magnitude in self.draw_operations(data_seed, epoch, index):
            images = _apply_each(images, choice, torch.from_numpy(magnitude).to(images.device))
        if self.cutout == 0:
            return images
        corners = self.draw_cutout(data_seed, epoch, index, *images.shape[2:])
        gray = _GRAY if images.shape[1] == 3 else (_GRAY_LUMA,)
        return fill_rectangles(
            images,
            torch.from_numpy(corners).to(images.device),
            torch.tensor(gray, dtype=torch.uint8, device=images.device),
        )


def _apply_each(images: "Tensor", choice: np.ndarray, magnitude: "Tensor") -> "Tensor":
    """Applies each image's own operation, batched over the images that share it."""
    import torch

    from kdbench.data import pixels

    result = torch.empty_like(images)
    for number in np.unique(choice):
        where = torch.from_numpy(np.flatnonzero(choice == number)).to(images.device)
        operation: Callable = getattr(pixels, OPERATIONS[number][0])
        result[where] = operation(images[where], magnitude[where])
    return result
