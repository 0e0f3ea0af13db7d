"""Class folders of images, ``<split>/<class>/<image>``: labels follow the sorted class names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdbench.data.base import Arrays, Content
from kdbench.data.image import read_array
from kdbench.data.layout import Layout
from kdbench.errors import DataError
from kdbench.words import list_some

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class ImageFolder(NamedTuple):
    """One split: class names in label order, the image files, and their labels [N] int64."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    targets: np.ndarray


def scan(folder: Path) -> ImageFolder:
    """Lists the images of a split. Names that start with a dot are ignored.

    Raises:
        DataError: no class folders, empty ones, empty files, files that are not images, broken
            links, names that are not UTF-8, or unreadable folders.
    """
    try:
        return _scan(folder)
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror}; it is part of the images in {folder}: make it "
            f"readable or remove it"
        ) from error


def require_utf8(path: Path) -> Path:
    """Returns the path; DataError if its name is not UTF-8 and so cannot go into a record."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{path.parent} contains {os.fsencode(path.name)!r}, which is not UTF-8; rename it"
        ) from None
    return path


def _scan(folder: Path) -> ImageFolder:
    class_names = sorted(_class_names(folder))
    if not class_names:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    listed = [sorted(_image_paths(folder / name)) for name in class_names]
    empty = [name for name, files in zip(class_names, listed, strict=True) if not files]
    if empty:
        raise DataError(
            f"{folder}: empty class folders: {list_some(empty, 10)}; fill or remove them"
        )
    targets = np.repeat(np.arange(len(listed)), [len(files) for files in listed])
    paths = tuple(Path(path) for files in listed for path in files)
    return ImageFolder(tuple(class_names), paths, targets)


def scan_pair(train: Path, test: Path) -> tuple[ImageFolder, ImageFolder]:
    """Lists the two splits of a dataset; DataError if their classes differ."""
    first = scan(train)
    second = first if train.samefile(test) else scan(test)
    difference = set(first.class_names) ^ set(second.class_names)
    if difference:
        raise DataError(
            f"{train} and {test} must have the same class folders; only in one of them: "
            f"{list_some(sorted(difference), 10)}"
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
        lambda: Content(decode(train, shape), decode(test, shape), train.class_names),
    )


def _class_names(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.name[0] == ".":
            continue
        if path.is_symlink() and not path.exists():
            raise DataError(f"{path} is a broken link; fix or remove it")
        if path.is_dir():
            yield require_utf8(path).name


def _image_paths(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            problem = _problem(entry)
            if problem:
                raise DataError(f"{require_utf8(Path(entry.path))} {problem}")
            yield str(require_utf8(Path(entry.path)))


def _problem(entry: "os.DirEntry[str]") -> str | None:
    """Why an entry of a class folder is not an image, and what to do about it."""
    if not entry.name.lower().endswith(SUFFIXES):
        return f"is not an image ({', '.join(SUFFIXES)}); remove it"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "is a broken link; fix or remove it"
    if not entry.is_file():
        kind = "a folder" if entry.is_dir() else "a special file"
        return f"is {kind}, not an image; remove it"
    if entry.stat().st_size == 0:
        return "is empty (0 bytes); restore the file or remove it"
    return None


def decode(split: ImageFolder, shape: tuple[int, int, int]) -> Arrays:
    """All images of a split; DataError if one is damaged or not of the shape (H, W, C)."""
    images = np.stack([read_array(file, str(file), shape) for file in split.files])
    return Arrays(images, split.targets)
