"""Differences between two nested dicts."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """One value that differs.

    Attributes:
        path: its keys, joined by dots.
        old: None also if the key is missing.
        new: None also if the key is missing.
    """

    path: str
    old: Any
    new: Any


def find_differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """All values that differ between two nested dicts, in the order of their paths."""
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif old != new:
        yield Difference(path, old, new)
