"""kdbench: compare temperature strategies for knowledge distillation.

Public names are imported on first use, because importing torch would slow down ``import kdbench``,
``--help`` and shell completion.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_HOMES = {
    "load_model": "kdbench.model.load",
    "load_objective": "kdbench.api",
    "load_run": "kdbench.api",
    "NetworkOutput": "kdbench.outputs",
    "Outputs": "kdbench.outputs",
    "Progress": "kdbench.progress",
}

__all__ = ["NetworkOutput", "Outputs", "Progress", "load_model", "load_objective", "load_run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
