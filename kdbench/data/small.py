"""Base class of datasets that fit in memory. A subclass finds the files and reads them.

No torch in here: a dataset is also constructed to check a config and to name a run.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdbench.data.augmentation import CropFlip
from kdbench.data.base import Arrays, Content, Source
from kdbench.data.cache import load_or_build
from kdbench.data.recipe import Recipe
from kdbench.errors import DataError

if TYPE_CHECKING:
    import torch

    from kdbench.data.tensors import TensorData


@dataclass(frozen=True, kw_only=True)
class SmallDataset(Recipe, ABC):
    """A dataset of small images; ``augmentation`` has the keys ``pad`` and ``flip``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.crop_flip  # reports a wrong augmentation now, not at the first batch

    @cached_property
    def crop_flip(self) -> CropFlip:
        """The augmentation of the train split."""
        return CropFlip(**self.augmentation)

    @abstractmethod
    def source(self, cache: Path) -> Source:
        """Finds and identifies the files: see ``kdbench.data.base.Dataset``."""

    @abstractmethod
    def read(self) -> Content:
        """Reads all images from the source."""

    def open(
        self, *, cache: Path, device: "torch.device", data_seed: int, protocol: str
    ) -> "TensorData":
        """Loads the dataset onto a device: see ``kdbench.data.base.Dataset``."""
        from kdbench.data.tensors import TensorData

        digest = self.source(cache).digest
        path = cache / "datasets" / f"{self.name}-{digest[:12]}.safetensors"
        content = load_or_build(path, self.read)
        self._check(content)
        return TensorData(
            content,
            self,
            self.crop_flip,
            digest,
            device=device,
            data_seed=data_seed,
            protocol=protocol,
        )

    def _check(self, content: Content) -> None:
        if len(content.class_names) != self.num_classes:
            raise DataError(
                f"{self.name}: found {len(content.class_names)} classes, but "
                f"dataset.num_classes={self.num_classes}; correct one of them"
            )
        self._check_split("train", content.train)
        self._check_split("test", content.test)

    def _check_split(self, split: str, arrays: Arrays) -> None:
        expected = (self.image_size, self.image_size, self.channels)
        if len(arrays.images) == 0 or len(arrays.images) != len(arrays.targets):
            raise DataError(
                f"{self.name}: the {split} split has {len(arrays.images)} images and "
                f"{len(arrays.targets)} labels; the numbers must be equal and > 0"
            )
        if arrays.images.shape[1:] != expected:
            raise DataError(
                f"{self.name}: {split} images are {arrays.images.shape[1:]} (H, W, C), expected "
                f"{expected} from dataset.image_size and dataset.channels"
            )
        wrong = np.flatnonzero((arrays.targets < 0) | (arrays.targets >= self.num_classes))
        if len(wrong):
            raise DataError(
                f"{self.name}: label {arrays.targets[wrong[0]]} of {split} sample {wrong[0]} is "
                f"outside 0..{self.num_classes - 1} (dataset.num_classes={self.num_classes})"
            )
