"""The 1,797 real 8x8 digits that ship with scikit-learn: the smallest real dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.data.base import Arrays, Content, Source
from kdbench.data.packaged import packaged_file, read_rows
from kdbench.data.small import SmallDataset
from kdbench.data.source import identify
from kdbench.data.split import split_arrays

_READER = "digits/1"
_TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Digits(SmallDataset):
    """8x8 grayscale digits, with a fixed split into about 80 % and 20 % of each class.

    Source: UCI, "Optical recognition of handwritten digits"; ``sklearn.datasets.load_digits``.
    """

    published_images = (1_438, 359)

    def source(self, cache: Path) -> Source:
        """The data file of the installed scikit-learn; DataError if there is none."""
        return identify("packaged", [_file()], cache, _READER)

    def read(self) -> Content:
        """Each row is 64 pixels in 0..16, rescaled here to 0..255, and the digit."""
        rows = read_rows(_file())
        pixels = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = split_arrays(Arrays(pixels, rows[:, -1].astype(np.int64)), _TEST_FRACTION)
        return Content(train, test, tuple("0123456789"))


def _file() -> Path:
    return packaged_file("sklearn", "datasets/data/digits.csv.gz")
