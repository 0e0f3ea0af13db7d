"""Photographs decoded by worker processes: batches do not depend on which worker decodes what."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from kdbench.data.base import Batch
from kdbench.data.folders import ImageFolder
from kdbench.data.image import read_image
from kdbench.data.normalise import Normalise
from kdbench.data.order import SampleOrder
from kdbench.data.randomness import STRONG_VIEW, TRANSFORM, hash64, view_seed
from kdbench.data.recipe import Recipe
from kdbench.data.split import name_key
from kdbench.errors import DataError, KdbenchError, explain_loader, first_line


class LoaderData:
    """DataModule over class folders: see ``kdbench.data.base.DataModule``."""

    num_views = None  # a random crop has a real-valued size and position

    def __init__(
        self,
        train: ImageFolder,
        test: ImageFolder,
        dataset: Recipe,
        eval_resize: int,
        workers: int | None,
        digest: str,
        *,
        device: torch.device,
        data_seed: int,
        protocol: str,
    ) -> None:
        self._order = SampleOrder(
            dataset,
            train.targets,
            lambda: [name_key(file) for file in train.files],
            len(test.files),
            data_seed,
            protocol,
        )
        self.digest, self.class_names = digest, train.class_names
        self.num_classes, self.num_train = dataset.num_classes, len(self._order.train)
        self.steps_per_epoch, self.eval_sizes = self._order.steps_per_epoch, self._order.eval_sizes
        self.image_shape = (dataset.channels, dataset.image_size, dataset.image_size)
        self._splits = {"train": train, "val": train, "test": test}
        self._transforms = (
            _train_transform(dataset),
            _eval_transform(eval_resize, dataset.image_size),
        )
        self._dataset, self._data_seed, self._device = dataset, data_seed, device
        self._further = dataset.views
        cores = len(os.sched_getaffinity(0))
        self._workers = cores if workers is None else workers
        self._normalise = Normalise(dataset.mean, dataset.std, dataset.image_size, device)

    def train_batches(
        self, epoch: int, start: int = 0, views: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Augmented batches of one epoch (0-based) from step ``start`` on; decodes no others.

        Raises:
            DataError: an image cannot be decoded.
            LoaderError: a worker is out of shared memory. If a worker is killed, torch raises in
                whatever this process is doing; ``known_error`` recognizes that.
        """
        order = self._order.order(epoch)
        batches = [order[part].tolist() for part in self._order.slices(start)]
        return self._load("train", batches, self._transforms[0], epoch, views)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """All samples of a split once, in order, resized and center-cropped."""
        index, size = self._order.samples(split), self._dataset.eval_batch_size
        batches = [index[start : start + size].tolist() for start in range(0, len(index), size)]
        return self._load(split, batches, self._transforms[1])

    def _load(
        self,
        split: str,
        batches: list[list[int]],
        transform: v2.Transform,
        epoch: int = 0,
        views: Sequence[str] = (),
    ) -> Iterator[Batch]:
        seeds = {name: view_seed(self._data_seed, name) for name in views}
        crops = [(self._data_seed, epoch, TRANSFORM)]
        own = [name for name in views if self._further[name].own_crop]
        crops += [(seeds[name], epoch, STRONG_VIEW) for name in own]
        samples = _Samples(self._splits[split], transform, self.image_shape[0], crops)
        loader = DataLoader(
            samples,
            batch_sampler=batches,
            collate_fn=_identity,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # by default it draws from the global one
        )
        for loaded in loader:
            if isinstance(loaded, KdbenchError):
                raise loaded
            sample = loaded[1].numpy()
            targets, index, *pixels = (p.to(self._device, non_blocking=True) for p in loaded)
            cropped = dict(zip(own, pixels[1:], strict=True))
            further = {
                name: self._normalise(
                    self._further[name](cropped.get(name, pixels[0]), seeds[name], epoch, sample)
                )
                for name in views
            }
            yield Batch(self._normalise(pixels[0]), targets, index, None, further or None)


class _Samples(TorchDataset):
    """Batches of samples, cropped once or more.

    The randomness of a crop is a function of its (data seed, epoch, purpose) and of the sample.
    """

    def __init__(
        self,
        split: ImageFolder,
        transform: v2.Transform,
        channels: int,
        crops: Sequence[tuple[int, int, int]],
    ) -> None:
        self._split, self._transform = split, transform
        self._channels, self._crops = channels, crops

    def __getitems__(self, index: list[int]) -> list[Tensor] | KdbenchError:
        """Targets [B], index [B], and pixels [B, H, W, C] uint8 for each crop; or the error."""
        try:
            views = zip(*(self._views(position) for position in index), strict=True)
        except DataError as error:
            return error  # raised in a worker, it would arrive buried in the worker's traceback
        arrays = (self._split.targets[index], np.array(index), *map(np.stack, views))
        return _share([torch.from_numpy(array) for array in arrays])

    def _views(self, index: int) -> list[np.ndarray]:
        file = self._split.files[index]
        image = read_image(file, str(file), self._channels)
        return [self._pixels(image, crop, index) for crop in self._crops]

    def _pixels(self, image: Image, crop: tuple[int, int, int], index: int) -> np.ndarray:
        # Transforms draw from torch's global generator: seed it, and restore it afterwards.
        with torch.random.fork_rng(devices=[]):
            seed = int(hash64(*crop, index)[0] >> np.uint64(1))
            torch.default_generator.manual_seed(seed)
            image = self._transform(image)
        return np.asarray(image).reshape(image.height, image.width, self._channels)


def _identity(batch: list[Tensor] | KdbenchError) -> list[Tensor] | KdbenchError:
    return batch


def _share(tensors: list[Tensor]) -> list[Tensor] | KdbenchError:
    """Moves tensors to shared memory in a worker, where a failure can be reported.

    By default a thread of the queue moves them. If that fails, it prints the error, sends nothing,
    and the main process waits forever.
    """
    if get_worker_info() is None:
        return tensors
    try:
        return [tensor.share_memory_() for tensor in tensors]
    except (RuntimeError, OSError) as error:
        size = sum(tensor.nbytes for tensor in tensors) / 2**20
        return explain_loader(
            f"a data-loading worker cannot share a batch of {size:.1f} MiB: {first_line(error)}"
        )


def _train_transform(dataset: Recipe) -> v2.Transform:
    recipe = dataset.augmentation
    crop = v2.RandomResizedCrop(
        dataset.image_size, scale=_pair(recipe["crop_scale"]), ratio=_pair(recipe["crop_ratio"])
    )
    return v2.Compose([crop, v2.RandomHorizontalFlip(p=0.5 if recipe["flip"] else 0.0)])


def _eval_transform(resize: int, size: int) -> v2.Transform:
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(size)])


def _pair(ends: Sequence[float]) -> tuple[float, float]:
    return ends[0], ends[1]
