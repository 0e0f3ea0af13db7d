"""Batches and the interface of a dataset: read this first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:  # torch is imported by the modules that move tensors, not by --help
    import torch
    from torch import Tensor


class Batch(NamedTuple):
    """One batch as every network, objective and strategy sees it.

    Attributes:
        images: [B, C, H, W] float32, normalised, with channels-last strides.
        targets: [B] int64, 0 <= target < num_classes.
        index: [B] int64, position of the sample in the full train split (batches of "train" and
            "val") or in the test split.
        view: [B] int64 number of the augmented view, 0 <= view < num_views; None where the views
            of an image cannot be enumerated and where nothing is augmented (evaluation).
        strong: [B, C, H, W] the same images, strongly augmented on top; None unless asked for.
    """

    images: "Tensor"
    targets: "Tensor"
    index: "Tensor"  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    view: "Tensor | None"
    strong: "Tensor | None" = None


@dataclass(frozen=True)
class Source:
    """The files a dataset is read from.

    Attributes:
        kind: how the files are laid out ("parquet", "python-archive", "class-folders", ...).
        files: every file that is read.
        digest: SHA-256 that identifies the content (see ``kdbench.data.source``).
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
    """What the training loop knows of a dataset.

    Attributes:
        num_classes: K.
        num_train: samples of one epoch; under the strict protocol without the validation split.
        steps_per_epoch: batches of one epoch, >= 1.
        eval_sizes: samples of each split that training evaluates: "test", and under the strict
            protocol "val".
        image_shape: (C, H, W).
        class_names: K names in label order.
        num_views: number of augmented views of an image; None where they cannot be enumerated.
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

    def train_batches(self, epoch: int, start: int = 0, strong: bool = False) -> Iterator[Batch]:
        """Batches of one epoch (0-based) from step ``start`` on; the same whoever asks.

        ``strong`` adds the strongly augmented view and changes nothing else.
        """
        ...

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """All samples of "test", "val" or "train" once, in order, without augmentation."""
        ...


class Dataset(Protocol):
    """What ``conf/dataset/*.yaml`` instantiates. Importing and constructing it needs no torch."""

    def source(self, cache: Path) -> Source:
        """Find and identify the files; raises DataError with the remedy where they are missing.

        Args:
            cache: folder in which the digests of unchanged files are remembered.
        """
        ...

    def open(
        self, *, cache: Path, device: "torch.device", data_seed: int, protocol: str
    ) -> DataModule:
        """Load the dataset for training on ``device``.

        Args:
            cache: folder for the digests and, for small datasets, the decoded images.
            device: where batches are wanted.
            data_seed: determines order and augmentation, together with epoch and sample.
            protocol: "paper" trains on the full train split; "strict" carves a validation split
                from it.
        """
        ...
