"""Validates names that become parts of paths: folders, groups and tables."""

from collections.abc import Mapping
from typing import Any

from kdbench.errors import ConfigError
from kdbench.words import shorten

LONGEST = 100  # characters; a folder name joins two of them, and file systems allow 255
_SEPARATORS = "/\\"


def require_names(plain: Mapping[str, Any]) -> None:
    """Rejects a resolved config with a name that would escape its folder.

    Raises:
        ConfigError: a name with a separator or a control character, too long, or empty.
    """
    names = {
        "dataset.name": _get(plain, "dataset", "name"),
        "method": plain.get("method"),
        "pair": plain.get("pair"),
        "table": plain.get("table"),
        "temperature._target_": _stem(_get(plain, "temperature", "_target_")),
        "objective.name": _get(plain, "objective", "name"),
        "student.arch": _get(plain, "student", "arch"),
        "teacher.model.arch": _get(_get(plain, "teacher", "model"), "arch"),
    }
    problems = [
        f"{key}={shorten(repr(name), 60)}" for key, name in names.items() if not is_name(name)
    ]
    if problems:
        raise ConfigError(
            f"{', '.join(problems)}: not a name. Names become parts of paths: 1 to {LONGEST} "
            f"printable characters, without / and \\, not starting with a dot"
        )


def is_name(name: Any) -> bool:
    """Whether this can be part of a path; None, the absence of a name, is accepted."""
    if name is None:
        return True
    return (
        isinstance(name, str)
        and 1 <= len(name) <= LONGEST
        and name.isprintable()
        and not name.startswith(".")
        and not any(separator in name for separator in _SEPARATORS)
    )


def _get(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _stem(target: Any) -> Any:
    """The name of a strategy: the module of its class."""
    return target.split(".")[-2] if isinstance(target, str) and "." in target else target
