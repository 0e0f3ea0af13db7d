"""A small dataset as one uint8 tensor per split on the device, augmented per batch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kdbench.data.augmentation import CropFlip
from kdbench.data.base import Batch, Content
from kdbench.data.normalise import Normalise
from kdbench.data.order import SampleOrder
from kdbench.data.randomness import STRONG_VIEW, VIEW, view_seed
from kdbench.data.recipe import Recipe
from kdbench.data.split import image_keys

_STRONG_AT_ONCE = 1024  # images


class TensorData:
    """DataModule of a dataset that fits on the device: see ``kdbench.data.base.DataModule``.

    Order and views of an epoch are hashes of (data seed, epoch, sample): they depend neither on
    the position in a batch nor on the device.
    """

    def __init__(
        self,
        content: Content,
        dataset: Recipe,
        augmentation: CropFlip,
        digest: str,
        *,
        device: torch.device,
        data_seed: int,
        protocol: str,
    ) -> None:
        train, test = content.train, content.test
        self._order = SampleOrder(
            dataset,
            train.targets,
            lambda: image_keys(train.images),
            len(test.targets),
            data_seed,
            protocol,
        )
        self.digest, self.class_names = digest, content.class_names
        self.num_classes, self.num_train = dataset.num_classes, len(self._order.train)
        self.steps_per_epoch, self.eval_sizes = self._order.steps_per_epoch, self._order.eval_sizes
        self.image_shape = (dataset.channels, dataset.image_size, dataset.image_size)
        self._augmentation, self.num_views = augmentation, augmentation.num_views
        self._further = dataset.views
        self._data_seed, self._eval_batch_size = data_seed, dataset.eval_batch_size
        self._batch_size = dataset.batch_size
        self._device = device
        images = torch.from_numpy(train.images).to(device)
        self._crops = _all_crops(images, augmentation.pad)
        self._test_images = torch.from_numpy(test.images).to(device)
        self._train_targets = torch.from_numpy(train.targets).to(device)
        self._test_targets = torch.from_numpy(test.targets).to(device)
        self._normalise = Normalise(dataset.mean, dataset.std, dataset.image_size, device)

    def train_batches(
        self, epoch: int, start: int = 0, views: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Augmented batches of one epoch (0-based) from step ``start`` on."""
        order = self._order.order(epoch)
        weak = self._views(epoch, order, VIEW, self._data_seed)
        parts = list(self._order.slices(start))
        further = {name: self._further_view(name, epoch, order, parts) for name in views}
        for part in parts:
            images, index, view = weak.cut(part), weak.index[part], weak.view[part]
            others = {name: next(batches) for name, batches in further.items()}
            yield Batch(
                self._normalise(images), self._train_targets[index], index, view, others or None
            )

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """All samples of "test", "val" or "train" once, in order, without augmentation."""
        is_test = split == "test"
        targets = self._test_targets if is_test else self._train_targets
        for index in self._to_device(self._order.samples(split)).split(self._eval_batch_size):
            images = self._test_images[index] if is_test else self._unaugmented(index)
            yield Batch(self._normalise(images), targets[index], index, None)

    def _unaugmented(self, index: Tensor) -> Tensor:
        pad = self._augmentation.pad
        return self._crops[index, pad, pad]

    def _further_view(
        self, name: str, epoch: int, order: np.ndarray, parts: list[slice]
    ) -> Iterator[Tensor]:
        """One per batch, computed for many batches at once to amortize the launch overhead."""
        augmentation, seed = self._further[name], view_seed(self._data_seed, name)
        if augmentation.own_crop:
            views = self._views(epoch, order, STRONG_VIEW, seed)
        else:
            views = self._views(epoch, order, VIEW, self._data_seed)
        batches = max(1, _STRONG_AT_ONCE // self._batch_size)
        for first in range(0, len(parts), batches):
            whole = slice(parts[first].start, parts[first : first + batches][-1].stop)
            pixels = augmentation(views.cut(whole), seed, epoch, order[whole])
            yield from map(self._normalise, pixels.split(self._batch_size))

    def _views(self, epoch: int, order: np.ndarray, purpose: int, seed: int) -> "_Views":
        views = self._augmentation.draw(seed, epoch, order, purpose)
        decoded = self._augmentation.decode(views)
        return _Views(self._crops, *map(self._to_device, (order, views, *decoded)))

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class _Views:
    """The drawn views of a whole epoch, so that a batch takes only a few large operations."""

    def __init__(
        self, crops: Tensor, index: Tensor, view: Tensor, dy: Tensor, dx: Tensor, flip: Tensor
    ) -> None:
        self.index, self.view = index, view
        self._crops, self._dy, self._dx = crops, dy, dx
        self._flip = flip.view(-1, 1, 1, 1) == 1

    def cut(self, part: slice) -> Tensor:
        """[B, H, W, C] uint8: the images of one batch."""
        images = self._crops[self.index[part], self._dy[part], self._dx[part]]
        return torch.where(self._flip[part], images.flip(2), images)


def _all_crops(images: Tensor, pad: int) -> Tensor:
    """All crops of all images, without copying.

    Args:
        images: [N, H, W, C] uint8.
        pad: rows and columns of zeros on each side.

    Returns:
        [N, 2 pad + 1, 2 pad + 1, H, W, C] uint8, a view of the padded images.
    """
    count, height, width, channels = images.shape
    padded = images.new_zeros(count, height + 2 * pad, width + 2 * pad, channels)
    padded[:, pad : pad + height, pad : pad + width] = images
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
