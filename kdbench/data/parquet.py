"""Parquet files in the layout of the Hugging Face hub: ``train*.parquet`` and ``test*.parquet``."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from kdbench.data.base import Arrays, Content
from kdbench.data.image import read_array
from kdbench.data.layout import Layout
from kdbench.errors import DataError

_IMAGE_COLUMNS = ("img", "image")
_FOLDERS = ("", "data", "plain_text")  # where the hub's datasets keep their files


def find_parquet(folder: Path, label: str, shape: tuple[int, int, int]) -> Layout | None:
    """Parquet files with encoded images.

    Args:
        folder: looked into, with its ``data/`` and ``plain_text/``.
        label: column of the labels.
        shape: (H, W, C) of every image.
    """
    for place in (folder / name for name in _FOLDERS):
        train, test = sorted(place.glob("train*.parquet")), sorted(place.glob("test*.parquet"))
        if train and test:
            names = [file for file in _name_files(folder, place) if file.is_file()][:1]
            return _layout(train, test, names, label, shape)
    return None


def _name_files(folder: Path, place: Path) -> tuple[Path, Path]:
    return place / "classes.txt", folder / "classes.txt"


def _layout(
    train: list[Path], test: list[Path], names: list[Path], label: str, shape: tuple[int, int, int]
) -> Layout:
    def read() -> Content:
        first, second = _read(train, label, shape), _read(test, label, shape)
        return Content(first, second, _class_names(names, train[0], label, first.targets))

    return Layout("parquet", (*train, *test, *names), read)


def _read(files: Sequence[Path], label: str, shape: tuple[int, int, int]) -> Arrays:
    parts = [_read_file(file, label, shape) for file in files]
    return Arrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _read_file(file: Path, label: str, shape: tuple[int, int, int]) -> Arrays:
    import pyarrow as pa  # a tenth of a second that a cached dataset does not pay
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        image = next((name for name in _IMAGE_COLUMNS if name in names), None)
        if image is None or label not in names:
            raise DataError(
                f"{file} has the columns {', '.join(names)}; needed are "
                f"{' or '.join(_IMAGE_COLUMNS)}, and {label}"
            )
        table = pq.read_table(file, columns=[image, label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as parquet ({error}); fetch it again") from error
    encoded = table[image].combine_chunks().field("bytes")
    images = [
        read_array(BytesIO(value.as_py() or b""), f"{file} row {row}", shape)
        for row, value in enumerate(encoded)
    ]
    pixels = np.array(images, dtype=np.uint8).reshape(-1, *shape)
    return Arrays(pixels, table[label].to_numpy().astype(np.int64))


def _class_names(
    listed: Sequence[Path], file: Path, label: str, targets: np.ndarray
) -> tuple[str, ...]:
    """From ``classes.txt`` (in label order), else from the hub's metadata, else numbers."""
    if listed:
        return tuple(listed[0].read_text(encoding="utf-8").splitlines())
    import pyarrow.parquet as pq

    metadata = pq.read_schema(file).metadata or {}
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(label, {})
    if "names" in feature:
        return tuple(feature["names"])
    return tuple(str(number) for number in range(targets.max(initial=-1) + 1))
