"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), in any of their usual file layouts."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from kdbench.data.base import Content, Source
from kdbench.data.folders import find_folders
from kdbench.data.layout import Layout, places
from kdbench.data.parquet import find_parquet
from kdbench.data.pickled import Release, find_pickled
from kdbench.data.small import SmallDataset
from kdbench.data.source import identify
from kdbench.errors import DataError
from kdbench.words import join_words

_READER = "cifar/1"


@dataclass(frozen=True, kw_only=True)
class _CIFAR(SmallDataset):
    """Looks for its files in ``root/name`` and in ``root``.

    Attributes:
        root: folder with the data.
        download: whether to download the published archive into ``root`` if nothing is found.
    """

    root: str
    download: bool

    published: ClassVar[Release]
    label_column: ClassVar[str]
    published_images = (50_000, 10_000)

    def source(self, cache: Path) -> Source:
        """Finds and identifies the files.

        Raises:
            DataError: the dataset is missing (the message says how to get it) or incomplete.
        """
        return identify(self._layout.kind, self._layout.files, cache, _READER)

    def read(self) -> Content:
        """Reads all images; DataError if files are damaged or not the published ones."""
        return self._layout.read()

    @cached_property
    def _layout(self) -> Layout:
        found = self._find()
        if found is None and self.download:
            self._fetch()
            found = self._find()
        if found is None:
            raise DataError(self._remedy())
        return found

    def _find(self) -> Layout | None:
        shape = (self.image_size, self.image_size, self.channels)
        for place in places(self.root, self.name):
            found = (
                find_pickled(place, self.published)
                or find_parquet(place, self.label_column, shape, self.num_classes)
                or find_folders(place, shape)
            )
            if found:
                return found
        return None

    def _fetch(self) -> None:
        from torchvision.datasets.utils import download_url

        archive = self.published.archive
        try:
            download_url(self.published.url, self.root, archive, self.published.md5[archive])
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"could not download {self.published.url} to {self.root}: {error}"
            ) from error

    def _remedy(self) -> str:
        searched = join_words([str(p.absolute()) for p in places(self.root, self.name)])
        published = self.published
        return (
            f"{self.name} was not found in {searched}; expected {published.archive}, its folder "
            f"{published.folder}/, train*.parquet and test*.parquet, or class folders in train/ "
            f"and test/. Set dataset.root=FOLDER if it is elsewhere, or download it with "
            f"dataset.download=true or curl --create-dirs --output-dir {self.root} "
            f"-O {published.url}"
        )


class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 + 10,000 images 32x32 in 10 classes."""

    label_column = "label"
    # Names and digests: torchvision.datasets.CIFAR10
    published = Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        md5={
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
    )


class CIFAR100(_CIFAR):
    """CIFAR-100: 50,000 + 10,000 images 32x32 in 100 (fine) classes."""

    label_column = "fine_label"
    # Names and digests: torchvision.datasets.CIFAR100
    published = Release(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        md5={
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    )
