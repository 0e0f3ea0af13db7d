"""Splits, order and batches of the samples: the same for every dataset."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kdbench.data.randomness import ORDER, hash64
from kdbench.data.recipe import Recipe
from kdbench.data.split import held_out
from kdbench.errors import ConfigError, DataError


class SampleOrder:
    """The samples of each split under a protocol, and their order in each epoch.

    Attributes:
        train: [num_train] positions in the full train split.
        evaluation: positions of the samples of "test" (in the test split) and, under the strict
            protocol, of "val" (in the full train split).
    """

    def __init__(
        self,
        recipe: Recipe,
        targets: np.ndarray,
        keys: Callable[[], Sequence[bytes]],
        num_test: int,
        data_seed: int,
        protocol: str,
    ) -> None:
        """Splits the train set.

        Args:
            recipe: batch size and fraction of the validation split.
            targets: labels of the full train split.
            keys: returns the digests of the samples; called under the strict protocol only. The
                validation split depends on them alone, so all runs hold out the same samples.
            num_test: size of the test split.
            data_seed: the order is a function of it and the epoch.
            protocol: "paper" or "strict".

        Raises:
            DataError: no samples left for training or validation.
        """
        if protocol not in ("paper", "strict"):
            raise ConfigError(f"run.protocol={protocol!r} must be paper or strict")
        everything = np.arange(len(targets))
        self.train, self.evaluation = everything, {"test": np.arange(num_test)}
        if protocol == "strict":
            mask = held_out(keys(), targets, recipe.val_fraction)
            self.train, self.evaluation["val"] = everything[~mask], everything[mask]
        self._batch_size, self._data_seed = recipe.batch_size, data_seed
        self._check(recipe)
        rounded = len(self.train) if recipe.drop_last else len(self.train) + self._batch_size - 1
        self.steps_per_epoch = rounded // self._batch_size

    @property
    def eval_sizes(self) -> dict[str, int]:
        """Number of samples of each evaluated split."""
        return {split: len(index) for split, index in self.evaluation.items()}

    def order(self, epoch: int) -> np.ndarray:
        """The train samples in the order of one epoch (0-based)."""
        return self.train[
            np.argsort(hash64(self._data_seed, epoch, ORDER, self.train), kind="stable")
        ]

    def slices(self, start: int) -> Iterator[slice]:
        """Slices of an epoch's order, one per batch, from step ``start`` on."""
        for step in range(start, self.steps_per_epoch):
            yield slice(step * self._batch_size, (step + 1) * self._batch_size)

    def samples(self, split: str) -> np.ndarray:
        """Positions of the samples of a split, in order."""
        splits = {**self.evaluation, "train": self.train}
        if split not in splits:
            raise ConfigError(
                f"there is no split {split!r}; choose from {', '.join(splits)}; "
                "a validation split needs run.protocol=strict"
            )
        return splits[split]

    def _check(self, recipe: Recipe) -> None:
        for split, index in {"train": self.train, **self.evaluation}.items():
            if len(index) == 0:
                raise DataError(
                    f"{recipe.name}: the {split} split has no images; run.protocol=strict holds "
                    f"out dataset.val_fraction={recipe.val_fraction} of every class"
                )
        if recipe.drop_last and len(self.train) < recipe.batch_size:
            raise DataError(
                f"{recipe.name}: 0 steps per epoch: {len(self.train)} training images are less "
                f"than a batch of dataset.batch_size={recipe.batch_size}; choose a smaller batch "
                "size, or dataset.drop_last=false"
            )
