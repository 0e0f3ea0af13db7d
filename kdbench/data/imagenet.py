"""ImageNet-1k, or any photographs in class folders: decoded anew in every epoch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.data.base import Source
from kdbench.data.folders import ImageFolder, scan_pair
from kdbench.data.layout import places
from kdbench.data.recipe import Recipe
from kdbench.data.source import identify
from kdbench.errors import ConfigError, DataError
from kdbench.words import join_words

if TYPE_CHECKING:
    import torch

    from kdbench.data.loader import LoaderData
    from kdbench.data.tensors import TensorData

_READER = "imagenet/1"


@dataclass(frozen=True, kw_only=True)
class Photographs(Recipe, ABC):
    """Images of any size in class folders.

    Attributes:
        augmentation: ``crop_scale`` and ``crop_ratio``, two numbers each: range of the area (as a
            fraction of the image) and of the aspect ratio of a random crop; ``flip``: whether to
            flip images with probability 1/2.
        eval_resize: length of the shorter side before the center crop, in pixels.
        workers: number of decoding processes, >= 0, or None for one per available core; batches
            do not depend on it.
    """

    augmentation: Mapping[str, Any]
    eval_resize: int
    workers: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("crop_scale", "crop_ratio"):
            _require_range(key, self.augmentation[key])
        if self.eval_resize < self.image_size:
            raise ConfigError(
                f"dataset.eval_resize={self.eval_resize} must be at least "
                f"dataset.image_size={self.image_size}"
            )
        if self.workers is not None and self.workers < 0:
            raise ConfigError(
                f"dataset.workers={self.workers} must be a whole number >= 0, or null"
            )

    @abstractmethod
    def source(self, cache: Path) -> Source:
        """Lists and identifies the images: see ``kdbench.data.base.Dataset``."""

    @property
    @abstractmethod
    def splits(self) -> tuple[ImageFolder, ImageFolder]:
        """The images of "train" and "test"; DataError if the folders are invalid."""

    def open(
        self, *, cache: Path, device: "torch.device", data_seed: int, protocol: str
    ) -> "LoaderData | TensorData":
        """Prepares loading: see ``kdbench.data.base.Dataset``."""
        from kdbench.data.loader import LoaderData

        train, test = self.splits
        if len(train.class_names) != self.num_classes:
            raise DataError(
                f"{self.name}: found {len(train.class_names)} class folders, but "
                f"dataset.num_classes={self.num_classes}; correct one of them"
            )
        digest = self.source(cache).digest
        return LoaderData(
            train,
            test,
            self,
            self.eval_resize,
            self.workers,
            digest,
            device=device,
            data_seed=data_seed,
            protocol=protocol,
        )


@dataclass(frozen=True, kw_only=True)
class ImageNet(Photographs):
    """Class folders ``root/train_dir`` and ``root/val_dir``, or the same below ``root/name``.

    ``val_dir`` is the split "test", as is usual; the strict protocol's "val" is held out of
    ``train_dir``.

    Attributes:
        root: folder with the data.
        train_dir: folder of the training images; "." for class folders directly in ``root``.
        val_dir: folder of the validation images.
    """

    root: str
    train_dir: str
    val_dir: str

    published_images = (1_281_167, 50_000)

    def source(self, cache: Path) -> Source:
        """Lists and identifies the images; above 5 GB, see ``kdbench.data.source``.

        Raises:
            DataError: the dataset is missing, or the class folders are invalid.
        """
        train, test = self.splits
        return identify("class-folders", (*train.files, *test.files), cache, _READER)

    @cached_property
    def splits(self) -> tuple[ImageFolder, ImageFolder]:
        """The images of ``train_dir`` and ``val_dir``."""
        searched = places(self.root, self.name)
        for place in searched:
            train, test = place / self.train_dir, place / self.val_dir
            if train.is_dir() and test.is_dir():
                return scan_pair(train, test)
        raise DataError(
            f"{self.name} was not found in {join_words([str(p.absolute()) for p in searched])}; "
            f"expected {self.train_dir}/<class>/<image> and {self.val_dir}/<class>/<image>. Get it "
            "from https://image-net.org (registration required), then set dataset.root=FOLDER, "
            "dataset.train_dir and dataset.val_dir"
        )


def _require_range(key: str, ends: Sequence[float]) -> None:
    if len(ends) != 2 or not 0 < ends[0] <= ends[1] < math.inf:
        raise ConfigError(
            f"dataset.augmentation.{key}={list(ends)} must be two numbers, 0 < smaller <= larger"
        )
