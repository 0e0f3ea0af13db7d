"""Names of classes in run keys: what a class is called, not where it lives.

A kdbench class enters a run key under its own name, ``Constant``, so moving its file changes no
key. A class that was renamed, or that shares its name with another one, declares its stable name in
its body, which is parsed, not imported::

    class ConstantTemperature(TemperatureStrategy):
        stable_name = "Constant"

Code outside kdbench keeps its dotted path (and its source is hashed, see ``code.py``); so do
torch's optimizers, whose paths are public.
"""

import ast
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from kdbench.config.code import find_definition, list_modules
from kdbench.config.targets import LOAD_MODEL, PLACES

ATTRIBUTE = "stable_name"
_STRATEGIES = "kdbench.temperature."


def stable_name(target: str) -> str:
    """The name that represents a ``_target_`` in a run key."""
    if not target.startswith("kdbench."):
        return target
    return _declared(target) or target.rpartition(".")[2]


def keyed_config(node: Any, section: str = "") -> Any:
    """A resolved config as it enters a run key.

    Targets become stable names; the ``name`` of a temperature strategy, a mere label, is dropped.

    Args:
        node: plain containers.
        section: the key of the node in its parent.
    """
    if isinstance(node, Mapping):
        is_strategy = section == "temperature" or _target(node).startswith(_STRATEGIES)
        kept = {key: child for key, child in node.items() if not (is_strategy and key == "name")}
        return {
            key: stable_name(child)
            if key == "_target_" and isinstance(child, str)
            else keyed_config(child, str(key))
            for key, child in kept.items()
        }
    return [keyed_config(child) for child in node] if isinstance(node, list | tuple) else node


def stable_targets(node: Any) -> Any:
    """A copy of a resolved config with stable names as targets, for comparisons."""
    return _with_targets(node, stable_name)


def current_targets(node: Any) -> Any:
    """A copy of a config, such as that of an old record, with targets at their current paths."""
    return _with_targets(node, _find_home)


def _with_targets(node: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: rename(child)
            if key == "_target_" and isinstance(child, str)
            else _with_targets(child, rename)
            for key, child in node.items()
        }
    return [_with_targets(each, rename) for each in node] if isinstance(node, list) else node


def _target(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", ""))


def _declared(target: str) -> str | None:
    found = find_definition(target)
    for line in found[1].body if found is not None else []:
        named = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(named, ast.Name) and named.id == ATTRIBUTE:
            value = getattr(line, "value", None)
            return str(value.value) if isinstance(value, ast.Constant) else None
    return None


def _find_home(target: str) -> str:
    """The current dotted path; the target itself if it is valid or unknown."""
    if not target.startswith("kdbench.") or find_definition(target) is not None:
        return target
    return _homes().get(target.rpartition(".")[2], target)


@cache
def _homes() -> dict[str, str]:
    """Stable name -> dotted path, for everything in kdbench that a config may name."""
    found = {stable_name(LOAD_MODEL): LOAD_MODEL}
    for module, tree in list_modules(PLACES):
        names = [line.name for line in tree.body if isinstance(line, ast.ClassDef)]
        found |= {stable_name(f"{module}.{name}"): f"{module}.{name}" for name in names}
    return found
