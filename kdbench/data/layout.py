"""File layouts of a dataset on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdbench.data.base import Content


class Layout(NamedTuple):
    """A dataset found on disk: the kind of layout, its files, and how to read them."""

    kind: str
    files: tuple[Path, ...]
    read: Callable[[], Content]


def places(root: str, name: str) -> tuple[Path, Path]:
    """The folders to search for a dataset, the more specific one first."""
    return Path(root) / name, Path(root)
