"""Batches and the dataset interface: read this first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from kdbench.outputs import WEAK

if TYPE_CHECKING:  # keeps torch out of --help
    import torch
    from torch import Tensor


class Batch(NamedTuple):
    """One batch as every network, objective and strategy sees it.

    Attributes:
        images: [B, C, H, W] float32, normalized, with channels-last strides.
        targets: [B] int64, 0 <= target < num_classes.
        index: [B] int64, position of the sample in the full train split (batches of "train" and
            "val") or in the test split.
        view: [B] int64 number of the augmented view, 0 <= view < num_views; None if the views
            of an image cannot be enumerated, and in evaluation.
        views: further views of the same images by name, such as "strong", each [B, C, H, W]; None
            unless requested.
    """

    images: "Tensor"
    targets: "Tensor"
    index: "Tensor"  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    view: "Tensor | None"
    views: "Mapping[str, Tensor] | None" = None

    def images_of(self, view: str) -> "Tensor":
        """[B, C, H, W] the images in a view by its name; "weak" is that of ``images``."""
        if view == WEAK:
            return self.images
        assert self.views is not None
        return self.views[view]


@dataclass(frozen=True)
class Source:
    """The files of a dataset.

    Attributes:
        kind: their layout ("parquet", "python-archive", "class-folders", ...).
        files: every file that is read.
        digest: SHA-256 of the content (see ``kdbench.data.source``).
    """

    kind: str
    files: tuple[Path, ...]
    digest: str


class Arrays(NamedTuple):
    """The images [N, H, W, C] uint8 (C order) and targets [N] int64 of one split, in memory."""

    images: np.ndarray
    targets: np.ndarray


class Content(NamedTuple):
    """A small image dataset in memory; ``class_names`` are in label order."""

    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]


class DataModule(Protocol):
    """A dataset as the training loop sees it.

    Attributes:
        num_classes: K.
        num_train: samples per epoch; under the strict protocol, without the validation split.
        steps_per_epoch: batches per epoch, >= 1.
        eval_sizes: number of samples of each evaluated split: "test", and "val" under the strict
            protocol.
        image_shape: (C, H, W).
        class_names: K names in label order.
        num_views: number of augmented views of an image; None if they cannot be enumerated.
        digest: SHA-256 of the content: ``Source.digest``.
    """

    num_classes: int
    num_train: int
    steps_per_epoch: int
    eval_sizes: Mapping[str, int]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_views: int | None
    digest: str

    def train_batches(
        self, epoch: int, start: int = 0, views: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Batches of one epoch (0-based) from step ``start`` on, the same on every call.

        Args:
            epoch: 0-based.
            start: first step.
            views: names of the further views that the batches carry; they change nothing else.
        """
        ...

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """All samples of "test", "val" or "train" once, in order, without augmentation."""
        ...


class Dataset(Protocol):
    """What ``conf/dataset/*.yaml`` instantiates. Importing or constructing it needs no torch.

    ``count_images``, train and test images where they are known without the files, is for
    estimates; see ``Recipe``.
    """

    def source(self, cache: Path) -> Source:
        """Finds and identifies the files.

        Args:
            cache: folder that keeps the digests of unchanged files.

        Raises:
            DataError: files are missing; the message says how to get them.
        """
        ...

    def open(
        self, *, cache: Path, device: "torch.device", data_seed: int, protocol: str
    ) -> DataModule:
        """Loads the dataset for training on ``device``.

        Args:
            cache: folder for the digests and, for small datasets, the decoded images.
            device: device of the batches.
            data_seed: order and augmentation are a function of it, the epoch and the sample.
            protocol: "paper" trains on the full train split; "strict" holds out a validation
                split of it.
        """
        ...
