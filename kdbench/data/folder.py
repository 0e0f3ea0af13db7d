"""Your own images in class folders: inspected, and described in the recorded config."""

import heapq
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdbench.data.base import Content, Source
from kdbench.data.folders import ImageFolder, decode, scan, scan_pair
from kdbench.data.image import FORMATS
from kdbench.data.imagenet import Photographs
from kdbench.data.recipe import Recipe
from kdbench.data.small import SmallDataset
from kdbench.data.source import identify
from kdbench.data.split import held_out, name_key
from kdbench.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from kdbench.data.loader import LoaderData
    from kdbench.data.tensors import TensorData

_READER = "folder/1"
_TEST_FOLDERS = ("val", "test", "valid", "validation")
_SMALL = 64  # pixels: up to this side, images of one size stay in memory; others are decoded anew
_PHOTOGRAPHS = {"image_size": 224, "eval_resize": 256}  # pixels, as for ImageNet
_MEASURED = 1_000  # images whose size is read

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """Contents of a folder.

    Attributes:
        train: training images.
        test: test images.
        sizes: ``<width>x<height>`` in pixels, or the smallest and the largest width and height.
        held_out: whether the test images were held out of the training images.
    """

    train: ImageFolder
    test: ImageFolder
    sizes: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Folder(Photographs):
    """Class folders in ``root``, or in ``root/train`` and ``root/val`` (or ``test``).

    Without a test folder, ``test_fraction`` of every class is held out as the test split. The
    choice depends only on the names of class and file, so it never changes. Square images of one
    size up to 64 pixels are kept in memory and augmented like CIFAR; others are decoded anew in
    every epoch, like ImageNet.

    Attributes:
        root: folder with the data.
        test_dir: the test folder in ``root``; None to find it.
        test_fraction: fraction of each class to hold out if there is no test folder, in (0, 1).
        found: number of ``train`` and ``test`` images and their ``sizes``, for the record.
        augmentation: ``pad`` and ``flip`` for images in memory; ``crop_scale``, ``crop_ratio`` and
            ``flip`` for others.
    """

    root: str
    test_dir: str | None
    test_fraction: float
    found: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ConfigError(
                f"dataset.test_fraction={self.test_fraction} must be between 0 and 1 (exclusive)"
            )

    @property
    def splits(self) -> tuple[ImageFolder, ImageFolder]:
        """The images of "train" and "test"; DataError if the folders are invalid."""
        found = self._find()
        return found.train, found.test

    def count_images(self) -> tuple[int, int]:
        """As they were found when the config was resolved."""
        return self.found["train"], self.found["test"]

    def source(self, cache: Path) -> Source:
        """Lists and identifies the images; DataError if the folders are invalid."""
        found = self._find()
        reader = f"{_READER} {self.test_fraction}" if found.held_out else _READER
        return identify("class-folders", (*found.train.files, *found.test.files), cache, reader)

    def open(
        self, *, cache: Path, device: "torch.device", data_seed: int, protocol: str
    ) -> "LoaderData | TensorData":
        """Loads the images, or prepares loading: see ``kdbench.data.base.Dataset``."""
        found = self._find()
        log.info(
            "%s: %d classes, %d + %d images%s of %s pixels",
            self.name,
            len(found.train.class_names),
            len(found.train.files),
            len(found.test.files),
            f" ({self.test_fraction:.0%} held out)" if found.held_out else "",
            found.sizes,
        )
        if self._is_small(found):
            small = _InMemory.of(self)
            return small.open(cache=cache, device=device, data_seed=data_seed, protocol=protocol)
        return super().open(cache=cache, device=device, data_seed=data_seed, protocol=protocol)

    def _is_small(self, found: Found) -> bool:
        return found.sizes == f"{self.image_size}x{self.image_size}" and self.image_size <= _SMALL

    def _find(self) -> Found:
        return find(self.root, self.test_dir, self.test_fraction)


@dataclass(frozen=True, kw_only=True)
class _InMemory(SmallDataset):
    """A folder of small images of one size."""

    folder: Folder

    @classmethod
    def of(cls, folder: Folder) -> "_InMemory":
        recipe = {field.name: getattr(folder, field.name) for field in fields(Recipe)}
        recipe["augmentation"] = {key: folder.augmentation[key] for key in ("pad", "flip")}
        return cls(**recipe, folder=folder)

    def source(self, cache: Path) -> Source:
        """The source of the folder."""
        return self.folder.source(cache)

    def read(self) -> Content:
        """Decodes all images."""
        train, test = self.folder.splits
        shape = (self.image_size, self.image_size, self.channels)
        return Content(decode(train, shape), decode(test, shape), train.class_names)


def describe_folder(key: str, root: str, test_dir: str | None, test_fraction: float) -> Any:
    """``${kdbench.folder:KEY,...}``: a property of an image folder, for the config of a run.

    Args:
        key: ``num_classes``, ``image_size``, ``eval_resize``, ``train``, ``test`` or ``sizes``.
        root: as in ``Folder``.
        test_dir: as in ``Folder``.
        test_fraction: as in ``Folder``.

    Returns:
        For an invalid folder, a placeholder that a network can be built with: the dataset itself
        reports the problem, as a data error.
    """
    try:
        found = find(str(root), test_dir, test_fraction)
    except DataError:
        return {"num_classes": 2, **_PHOTOGRAPHS, "sizes": "nothing"}.get(key, 0)
    side, _, other = found.sizes.partition("x")
    is_small = side == other and int(side) <= _SMALL
    return {
        "num_classes": len(found.train.class_names),
        **({"image_size": int(side), "eval_resize": int(side)} if is_small else _PHOTOGRAPHS),
        "train": len(found.train.files),
        "test": len(found.test.files),
        "sizes": found.sizes,
    }[key]


@lru_cache
def find(root: str, test_dir: str | None, test_fraction: float) -> Found:
    """Lists the images of a folder, once per process.

    Raises:
        DataError: no folder, fewer than two class folders, or invalid ones
            (``kdbench.data.folders``).
    """
    train, test = _train_and_test(Path(root), test_dir)
    first, second = (scan(train), None) if test is None else scan_pair(train, test)
    if len(first.class_names) < 2:
        raise DataError(f"{train} has only one class folder, {first.class_names[0]}; 2 are needed")
    sizes = _sizes((*first.files, *(second.files if second else ())))
    if second is not None:
        return Found(first, second, sizes, held_out=False)
    return Found(*_hold_out(first, test_fraction, train), sizes, held_out=True)


def _train_and_test(root: Path, test_dir: str | None) -> tuple[Path, Path | None]:
    if not root.is_dir():
        raise DataError(
            f"dataset.root={str(root)!r} is not a folder; set dataset.root=DIR to a folder with "
            f"<class>/<image>, or with train/<class>/<image> and val/<class>/<image>"
        )
    train = root / "train"
    if test_dir is not None:
        if not (root / test_dir).is_dir() or not train.is_dir():
            raise DataError(f"dataset.test_dir={test_dir}: {root} must contain it and train/")
        return train, root / test_dir
    if not train.is_dir():
        return root, None
    there = [name for name in _TEST_FOLDERS if (root / name).is_dir()]
    if len(there) > 1:
        raise DataError(
            f"{root} has {', '.join(f'{name}/' for name in there)}: choose the test folder with "
            f"dataset.test_dir, such as dataset.test_dir={there[0]}; the others are ignored"
        )
    return train, root / there[0] if there else None


def _hold_out(
    images: ImageFolder, fraction: float, folder: Path
) -> tuple[ImageFolder, ImageFolder]:
    mask = held_out([name_key(file) for file in images.files], images.targets, fraction)
    if not mask.any() or mask.all():
        raise DataError(
            f"{folder}: dataset.test_fraction={fraction} splits {len(mask)} images of "
            f"{len(images.class_names)} classes into {(~mask).sum()} for training and "
            f"{mask.sum()} for testing; choose another fraction, or add images"
        )
    return _select(images, ~mask), _select(images, mask)


def _select(images: ImageFolder, mask: np.ndarray) -> ImageFolder:
    files = tuple(images.files[position] for position in np.flatnonzero(mask))
    return ImageFolder(images.class_names, files, images.targets[mask])


def _sizes(files: tuple[Path, ...]) -> str:
    measured = heapq.nsmallest(_MEASURED, files, key=name_key)
    known = [size for file in measured if (size := _size(file))]
    if not known:
        return "unknown"
    widths, heights = zip(*known, strict=True)
    smallest, largest = (f"{f(widths)}x{f(heights)}" for f in (min, max))
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _size(file: Path) -> tuple[int, int] | None:
    """None if it cannot be read; decoding the image reports the error."""
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.size
    except Exception:
        return None
