"""The keys that every ``conf/dataset/*.yaml`` has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kdbench.data.strong import StrongAugmentation
from kdbench.errors import ConfigError
from kdbench.outputs import WEAK


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A dataset and its usual training recipe.

    Attributes:
        name: stem of the YAML file; used in file names and tables.
        num_classes: K, >= 2.
        channels: 1 (grayscale) or 3 (RGB).
        image_size: height and width of the network's input, in pixels.
        mean: per channel, for pixels in [0, 1].
        std: per channel, for pixels in [0, 1], > 0.
        augmentation: its keys depend on the dataset.
        views: the further views by name, for methods that read one; ``conf/view`` is "strong".
        batch_size: training images per step.
        eval_batch_size: images per evaluation batch; results do not depend on it.
        epochs: length of the usual recipe; the default of ``run.epochs``.
        val_fraction: fraction of each class that the strict protocol holds out of the train split.
        drop_last: whether to drop the last partial batch of an epoch.
        published_images: train and test images of a dataset that never changes; else None.
    """

    published_images: ClassVar[tuple[int, int] | None] = None

    name: str
    num_classes: int
    channels: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Mapping[str, Any]
    views: Mapping[str, StrongAugmentation]
    batch_size: int
    eval_batch_size: int
    epochs: int
    val_fraction: float
    drop_last: bool

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) != self.channels:
                raise ConfigError(
                    f"dataset.{key}={list(values)} must have one value per channel "
                    f"(dataset.channels={self.channels})"
                )
        if min(self.std) <= 0:
            raise ConfigError(f"dataset.std={list(self.std)} must be > 0")
        if WEAK in self.views:
            raise ConfigError(
                f"dataset.views.{WEAK}: this is the name of the usual augmentation; choose another"
            )
        if not 0 < self.val_fraction < 1:
            raise ConfigError(
                f"dataset.val_fraction={self.val_fraction} must be between 0 and 1 (exclusive)"
            )

    def count_images(self) -> tuple[int, int] | None:
        """Train and test images, as far as they are known without the files; else None."""
        return self.published_images
