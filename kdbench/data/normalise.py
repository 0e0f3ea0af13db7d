"""From pixels to network input."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalise:
    """``(pixel / 255 - mean) / std``, as one multiplication and one addition.

    Equal to torchvision's ToTensor and Normalize up to float32 rounding (1e-6).
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], width: int, device: torch.device
    ) -> None:
        scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float64)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
        # One value for each number of an image row: rows of three do not vectorize well.
        self._scale = scale.repeat(width).float().to(device)
        self._shift = shift.repeat(width).float().to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """[B, H, W, C] uint8 to [B, C, H, W] float32 with channels-last strides."""
        rows = images.flatten(2)
        return (rows * self._scale).add_(self._shift).view(images.shape).permute(0, 3, 1, 2)
