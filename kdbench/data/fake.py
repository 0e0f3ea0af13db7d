"""Random images with a class signal, for smoke tests: results on them mean nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.data.base import Arrays, Content, Source
from kdbench.data.randomness import hash64
from kdbench.data.small import SmallDataset
from kdbench.data.source import identify
from kdbench.errors import ConfigError

_READER = "fake/1"
_PROTOTYPES, _TRAIN, _TEST = range(3)
_PATCHES = 4  # a prototype is 4x4 patches of color, which survive a crop of a few pixels


@dataclass(frozen=True, kw_only=True)
class Fake(SmallDataset):
    """Each image is the prototype of its class, blended with noise.

    Attributes:
        train_size: images of the train split.
        test_size: images of the test split.
        signal: weight of the prototype in an image, 0 (noise only) to 1.
        seed: of prototypes and noise.
    """

    train_size: int
    test_size: int
    signal: float
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.signal <= 1:
            raise ConfigError(f"dataset.signal={self.signal} must be from 0 to 1")

    def count_images(self) -> tuple[int, int]:
        """As the config says."""
        return self.train_size, self.test_size

    def source(self, cache: Path) -> Source:
        """No files: the parameters determine the content."""
        sizes = (self.num_classes, self.image_size, self.channels, self.train_size, self.test_size)
        return identify("generated", (), cache, f"{_READER} {sizes} {self.signal} {self.seed}")

    def read(self) -> Content:
        """Generates the images."""
        patches = self._noise(_PROTOTYPES, self.num_classes, _PATCHES)
        patch = np.arange(self.image_size) * _PATCHES // self.image_size
        prototypes = patches[:, patch][:, :, patch]
        return Content(
            self._split(_TRAIN, self.train_size, prototypes),
            self._split(_TEST, self.test_size, prototypes),
            tuple(f"class {label}" for label in range(self.num_classes)),
        )

    def _split(self, stream: int, size: int, prototypes: np.ndarray) -> Arrays:
        targets = np.arange(size) % self.num_classes
        noise = self._noise(stream, size, self.image_size)
        images = self.signal * prototypes[targets] + (1 - self.signal) * noise
        return Arrays(images.astype(np.uint8, order="C"), targets)

    def _noise(self, stream: int, count: int, side: int) -> np.ndarray:
        shape = (count, side, side, self.channels)
        bits = hash64(self.seed, stream, np.arange(np.prod(shape)))
        return (bits >> np.uint64(56)).astype(np.uint8).reshape(shape)
