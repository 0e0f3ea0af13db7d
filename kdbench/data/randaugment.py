"""RandAugment at a fixed magnitude, from torchvision."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdbench.data.randomness import STRONG, hash64

if TYPE_CHECKING:  # constructing it needs no torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """torchvision's RandAugment, image by image.

    Source: Cubuk et al., "RandAugment", NeurIPS 2020; ``torchvision.transforms.v2.RandAugment``.

    Attributes:
        num_ops: operations per image.
        magnitude: of every operation, 0 to 30.
        own_crop: whether crop and flip are drawn independently of the weak view's.
    """

    num_ops: int
    magnitude: int
    own_crop: bool

    def __call__(self, images: "Tensor", data_seed: int, epoch: int, index: np.ndarray) -> "Tensor":
        """Augments cropped and flipped images: see ``kdbench.data.strong``."""
        import torch
        from torchvision.transforms import v2

        transform = v2.RandAugment(self.num_ops, self.magnitude)
        seeds = (hash64(data_seed, epoch, STRONG, index) >> np.uint64(1)).tolist()
        augmented = []
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(images.permute(0, 3, 1, 2).cpu(), seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                augmented.append(transform(image))
        return torch.stack(augmented).permute(0, 2, 3, 1).to(images.device)
