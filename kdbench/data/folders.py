"""Class folders of images: ``<split>/<class>/<image>``, labels in the order of the sorted names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdbench.data.base import Arrays, Content
from kdbench.data.image import read_array
from kdbench.data.layout import Layout
from kdbench.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class ImageFolder(NamedTuple):
    """One split: class names in label order, the image files and their labels [N] int64."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    targets: np.ndarray


def scan(folder: Path) -> ImageFolder:
    """Lists the images of a split. Names that start with a dot are ignored.

    Raises:
        DataError: no class folders, empty ones, empty files, or files that are no images.
    """
    class_names = sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name[0] != ".")
    if not class_names:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    listed = [sorted(_image_paths(folder / name)) for name in class_names]
    empty = [name for name, files in zip(class_names, listed, strict=True) if not files]
    if empty:
        raise DataError(f"{folder}: empty class folders: {_some(empty)}; fill or remove them")
    targets = np.repeat(np.arange(len(listed)), [len(files) for files in listed])
    paths = tuple(Path(path) for files in listed for path in files)
    return ImageFolder(tuple(class_names), paths, targets)


def scan_pair(train: Path, test: Path) -> tuple[ImageFolder, ImageFolder]:
    """Lists two splits of a dataset; DataError where their classes differ."""
    first = scan(train)
    second = first if train.samefile(test) else scan(test)
    difference = set(first.class_names) ^ set(second.class_names)
    if difference:
        raise DataError(
            f"{train} and {test} must have the same class folders; only one of them has "
            f"{_some(sorted(difference))}"
        )
    return first, second


def find_folders(folder: Path, shape: tuple[int, int, int]) -> Layout | None:
    """Class folders of images of one shape (H, W, C) in ``train/`` and ``test/``."""
    if not ((folder / "train").is_dir() and (folder / "test").is_dir()):
        return None
    train, test = scan_pair(folder / "train", folder / "test")
    return Layout(
        "class-folders",
        (*train.files, *test.files),
        lambda: Content(_decode(train, shape), _decode(test, shape), train.class_names),
    )


def _image_paths(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if not entry.name.lower().endswith(SUFFIXES):
                raise DataError(f"{entry.path} is not an image ({', '.join(SUFFIXES)}); remove it")
            if entry.stat().st_size == 0:
                raise DataError(f"{entry.path} is empty (0 bytes); restore the file or remove it")
            yield entry.path


def _decode(split: ImageFolder, shape: tuple[int, int, int]) -> Arrays:
    images = np.stack([read_array(file, str(file), shape) for file in split.files])
    return Arrays(images, split.targets)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + rest
