"""The strongly augmented view of a batch, for methods that compare two views."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from kdbench.data.randomness import STRONG, hash64


class StrongAugmentation:
    """RandAugment on top of the usual augmentation.

    Source: Cubuk et al., "RandAugment", NeurIPS 2020, as MLKD uses it (2 operations, magnitude 10).

    Args:
        recipe: ``num_ops`` and ``magnitude`` (of 30).
    """

    def __init__(self, recipe: Mapping[str, int]) -> None:
        self._transform = v2.RandAugment(recipe["num_ops"], recipe["magnitude"])

    def __call__(self, pixels: Tensor, data_seed: int, epoch: int, index: Tensor) -> Tensor:
        """[B, H, W, C] uint8; the randomness of each image comes from its own counters."""
        seeds = hash64(data_seed, epoch, STRONG, index.cpu().numpy()) >> np.uint64(1)
        images = pixels.permute(0, 3, 1, 2).cpu()
        with torch.random.fork_rng(devices=[]):
            augmented = [self._one(*each) for each in zip(images, seeds.tolist(), strict=True)]
        return torch.stack(augmented).permute(0, 2, 3, 1).to(pixels.device)

    def _one(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        return self._transform(image)
