"""The forms in which a dataset may lie on a disk."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdbench.data.base import Content


class Layout(NamedTuple):
    """A dataset that was found: what form it has, its files, and how to read them."""

    kind: str
    files: tuple[Path, ...]
    read: Callable[[], Content]


def places(root: str, name: str) -> tuple[Path, Path]:
    """Where a dataset is looked for: the more specific folder first."""
    return Path(root) / name, Path(root)
