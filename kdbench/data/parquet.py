"""Parquet files in the layout of the Hugging Face Hub: ``train*.parquet`` and ``test*.parquet``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbench.data.base import Arrays, Content
from kdbench.data.folders import require_utf8
from kdbench.data.image import read_array
from kdbench.data.layout import Layout
from kdbench.errors import DataError
from kdbench.words import join_words

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_COLUMNS = ("img", "image")
_FOLDERS = ("", "data", "plain_text")  # usual in datasets on the Hub


@dataclass(frozen=True)
class _Form:
    """The expected format.

    Attributes:
        label: column of the labels.
        shape: (H, W, C) of every image.
        num_classes: labels are 0 to num_classes - 1.
    """

    label: str
    shape: tuple[int, int, int]
    num_classes: int


def find_parquet(
    folder: Path, label: str, shape: tuple[int, int, int], num_classes: int
) -> Layout | None:
    """Parquet files with encoded images.

    Args:
        folder: searched, with its ``data/`` and ``plain_text/``.
        label: column of the labels.
        shape: (H, W, C) of every image.
        num_classes: labels are 0 to num_classes - 1.

    Raises:
        DataError: a path of that name is not a file.
    """
    for place in (folder / name for name in _FOLDERS):
        train, test = _files(place, "train"), _files(place, "test")
        if train and test:
            names = [file for file in _name_files(folder, place) if file.is_file()][:1]
            return _layout(train, test, names, _Form(label, shape, num_classes))
    return None


def _files(place: Path, split: str) -> list[Path]:
    files = sorted(place.glob(f"{split}*.parquet"))
    for file in files:
        if not require_utf8(file).is_file():
            found = "a folder" if file.is_dir() else "a broken link or a special file"
            raise DataError(f"{file} is {found}, not a parquet file; replace or remove it")
    return files


def _name_files(folder: Path, place: Path) -> tuple[Path, Path]:
    return place / "classes.txt", folder / "classes.txt"


def _layout(train: list[Path], test: list[Path], names: list[Path], form: _Form) -> Layout:
    def read() -> Content:
        first, second = _read(train, form), _read(test, form)
        return Content(first, second, _class_names(names, train[0], form.label, first.targets))

    return Layout("parquet", (*train, *test, *names), read)


def _read(files: Sequence[Path], form: _Form) -> Arrays:
    parts = [_read_file(file, form) for file in files]
    return Arrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _read_file(file: Path, form: _Form) -> Arrays:
    import pyarrow.parquet as pq

    with _readable(file):
        schema = pq.read_schema(file)
        image = _image_column(schema, file, form.label)
        table = pq.read_table(file, columns=[image, form.label])
        encoded = _encoded(table[image])
        targets = _targets(table[form.label], file, form)
    images = [
        read_array(BytesIO(value or b""), f"{file} row {row}", form.shape)
        for row, value in enumerate(encoded)
    ]
    return Arrays(np.array(images, dtype=np.uint8).reshape(-1, *form.shape), targets)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa  # takes 0.1 s, which a cached dataset saves

    try:
        yield
    except (DataError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{file} is not readable as parquet ({error}); download it again"
        ) from error


def _image_column(schema: "pa.Schema", file: Path, label: str) -> str:
    """Its name; DataError if columns are missing, duplicated, or of the wrong type."""
    import pyarrow as pa

    image = next((name for name in _IMAGE_COLUMNS if schema.names.count(name) == 1), None)
    if image is None or schema.names.count(label) != 1:
        raise DataError(
            f"{file} has the columns {', '.join(schema.names)}; it must have "
            f"{join_words(_IMAGE_COLUMNS, 'or')}, and {label}, once each"
        )
    kind = schema.field(image).type
    if not _is_binary(kind) and not (
        pa.types.is_struct(kind)
        and kind.get_field_index("bytes") >= 0
        and _is_binary(kind.field("bytes").type)
    ):
        raise DataError(
            f"{file}: column {image} has the type {kind}; it must hold encoded images (PNG, JPEG, "
            f"...) as binary, or as a struct with binary 'bytes', as on the Hugging Face Hub"
        )
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(
            f"{file}: column {label} has the type {schema.field(label).type}; labels must be "
            f"integers >= 0: write it as int64"
        )
    return image


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _encoded(column: "pa.ChunkedArray") -> Iterator[bytes | None]:
    for chunk in column.chunks:
        for value in chunk.field("bytes") if hasattr(chunk, "field") else chunk:
            yield value.as_py()


def _targets(column: "pa.ChunkedArray", file: Path, form: _Form) -> np.ndarray:
    """[N] int64; DataError if a label is missing or outside 0..K-1."""
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise DataError(f"{file} row {row} has no label; remove the row, or label it")
    labels = column.to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= form.num_classes))
    if len(wrong):
        raise DataError(
            f"{file}: label {labels[wrong[0]]} of row {wrong[0]} is outside "
            f"0..{form.num_classes - 1} (dataset.num_classes={form.num_classes}); correct one of "
            f"them"
        )
    return labels.astype(np.int64)


def _class_names(
    listed: Sequence[Path], file: Path, label: str, targets: np.ndarray
) -> tuple[str, ...]:
    """From ``classes.txt`` (in label order), else from the Hub's metadata, else numbers."""
    if listed:
        return _listed_names(listed[0])
    names = _hub_names(file, label)
    if names is not None:
        return names
    return tuple(str(number) for number in range(targets.max(initial=-1) + 1))


def _listed_names(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text ({error}); it must have one class name per line, in label "
            f"order: save it as UTF-8, or remove it"
        ) from error


def _hub_names(file: Path, label: str) -> tuple[str, ...] | None:
    """None if the file has no names; DataError if they are not in the Hub's format."""
    import pyarrow.parquet as pq

    metadata = (pq.read_schema(file).metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        described: Any = json.loads(metadata)
        names = described.get("info", {}).get("features", {}).get(label, {}).get("names")
        if names is None:
            return None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
        problem = f"names={names!r:.60}"
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise DataError(
        f"{file}: its 'huggingface' metadata does not list the class names of {label} in the Hub's "
        f"format ({problem}); write the names to {file.parent / 'classes.txt'}, one per line, or "
        f"download the file again"
    )
