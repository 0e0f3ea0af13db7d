"""Which ``_target_`` a config may name.

Instantiating a ``_target_`` runs code, so a config file that somebody else wrote must not be able
to name any function it likes. A user's own package is allowed by the user's environment, not by
the config: ``KDBENCH_ALLOW_TARGETS=mypackage,other.module kdbench-train ...``.
"""

import os
from collections.abc import Iterator
from typing import Any

ALLOWED = ("kdbench", "torch.nn", "torch.optim", "timm.models", "torchvision.models")
ALLOW_VARIABLE = "KDBENCH_ALLOW_TARGETS"


def iter_targets(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """All (path, node) below ``node`` that have a ``_target_``, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from iter_targets(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for position, child in enumerate(node):
            yield from iter_targets(child, f"{path}[{position}]")


def forbidden_targets(node: Any, path: str = "") -> list[str]:
    """One sentence for every ``_target_`` below ``node`` that is not allowed."""
    return [text for where, found in iter_targets(node, path) for text in refuse(where, found)]


def refuse(path: str, node: dict) -> list[str]:
    """One sentence if the ``_target_`` of this very node is not allowed, else nothing."""
    allowed = (*ALLOWED, *filter(None, os.environ.get(ALLOW_VARIABLE, "").split(",")))
    if is_allowed(node["_target_"], allowed):
        return []
    return [
        f"{path or 'config'}: _target_={node['_target_']!r} is not allowed; allowed are names "
        f"below {', '.join(allowed)}; to allow your own package set {ALLOW_VARIABLE}=<package>"
    ]


def is_allowed(target: Any, allowed: tuple[str, ...]) -> bool:
    """Whether a dotted name lies in an allowed package, without passing through a module in it.

    ``kdbench.train.os.system`` lies below ``kdbench`` by its name only. So the object behind the
    name must be defined in an allowed package too.
    """
    if not isinstance(target, str) or not _below(target, allowed):
        return False
    from hydra.utils import get_object

    try:
        found = get_object(target)
    except Exception:
        return True  # there is nothing behind the name: check.py says so
    return _below(str(getattr(found, "__module__", "")), allowed)


def _below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
