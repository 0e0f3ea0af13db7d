"""Which ``_target_`` a config may name.

Instantiating a ``_target_`` runs code, so an untrusted config must not be able to name arbitrary
objects. Allowed is what kdbench itself constructs: its own strategies, losses, plugins, schedules,
datasets and trackers, ``load_model``, and torch's optimizers; each by the path where it is defined.

A user's own code is allowed through the environment, never by a config:
``KDBENCH_ALLOW_TARGETS=mypackage,other.make_net kdbench-train ...``. A package or module name
allows the classes in it that can be a part of a run; the full name of an object allows that object.
"""

import os
from collections.abc import Iterator
from inspect import isclass
from typing import Any

ALLOW_VARIABLE = "KDBENCH_ALLOW_TARGETS"

LOAD_MODEL = "kdbench.model.load.load_model"
OPTIMIZERS = tuple(
    f"torch.optim.{name}"
    for name in (
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam"),
        *("RAdam", "RMSprop", "Rprop", "SGD"),
    )
)
_DATASET, _TRACKER, _CALLED = ("open", "source"), ("start", "log", "finish"), ("__call__",)
_ANY: tuple[str, ...] = ()
# Module or package -> alternative sets of attributes, one of which a part of a run has in full.
_OWN: dict[str, tuple[tuple[str, ...], ...]] = {
    "kdbench.temperature": (_ANY,),
    "kdbench.objective": (_ANY,),
    "kdbench.plugin": (_ANY,),
    "kdbench.engine.schedule": (_ANY,),
    "kdbench.data": (_DATASET, _CALLED),  # a view is called
    "kdbench.tracker": (_TRACKER,),
}
PLACES = tuple(_OWN)
_STRATEGY = "kdbench.temperature.base.TemperatureStrategy"
_BASES = ("torch.nn.modules.module.Module", "torch.optim.optimizer.Optimizer")


def iter_targets(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """All (path, node) below ``node`` that have a ``_target_``, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from iter_targets(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for position, child in enumerate(node):
            yield from iter_targets(child, f"{path}[{position}]")


def forbidden_targets(node: Any, path: str = "") -> list[str]:
    """One sentence for every ``_target_`` below ``node`` that is not allowed."""
    return [text for where, found in iter_targets(node, path) for text in refuse(where, found)]


def refuse(path: str, node: dict) -> list[str]:
    """One sentence if the ``_target_`` of this node itself is not allowed, else nothing."""
    target = node["_target_"]
    if is_allowed(target):
        return []
    return [
        f"{path or 'config'}: _target_={target!r} is not allowed; allowed are the parts of kdbench "
        f"that conf/ names, torch's optimizers, and what you name in the environment variable "
        f"{ALLOW_VARIABLE}: a package, for the modules and optimizers in it, or the full name of "
        f"a function or class"
    ]


def is_allowed(target: Any) -> bool:
    """Whether a config may name this target."""
    if not isinstance(target, str):
        return False
    if target == LOAD_MODEL or target in OPTIMIZERS:
        return True
    return _is_own(target) or is_allowed_by_user(target)


def is_allowed_by_user(target: str) -> bool:
    """Whether the user's environment allows this name, or the package that defines it."""
    named = [name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",")]
    packages = [name for name in named if name and _below(target, name)]
    if target in packages:
        return True
    found = find_target(target) if packages else None
    if found is None:
        return bool(packages)  # cannot be imported: check.py reports it
    home = str(getattr(found, "__module__", ""))  # `mypackage.os.system` is not below `mypackage`
    return any(_below(home, name) for name in packages) and isclass(found) and _is_part(found)


def is_strategy(owner: Any) -> bool:
    """Whether a target is a temperature strategy, whose node may have a label, ``name``."""
    bases = getattr(owner, "__mro__", ())
    return any(f"{base.__module__}.{base.__qualname__}" == _STRATEGY for base in bases)


def _is_own(target: str) -> bool:
    kinds = next((kinds for place, kinds in _OWN.items() if _below(target, place)), None)
    if kinds is None:
        return False
    found = find_target(target)
    if found is None:
        return True  # as above
    # Where it is defined counts: `kdbench.objective.kl.Path` is pathlib's.
    at_home = isclass(found) and f"{found.__module__}.{found.__qualname__}" == target
    is_public = not target.rpartition(".")[2].startswith("_")
    return at_home and is_public and any(_has(found, names) for names in kinds)


def _is_part(found: type) -> bool:
    """Whether a class can be a part of a run: a module, an optimizer, or similar to kdbench's."""
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
    if bases & set(_BASES) or any(base.startswith(("kdbench.", "hydra.")) for base in bases):
        return True
    return any(_has(found, names) for names in (_DATASET, _TRACKER, _CALLED))


def _has(found: type, names: tuple[str, ...]) -> bool:
    return all(any(name in vars(base) for base in found.__mro__) for name in names)


def find_target(target: str) -> Any:
    """The object with a dotted name; None if it cannot be imported."""
    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception:
        return None


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
