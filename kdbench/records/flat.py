"""A nested config as flat columns, for the tables and filters of a tracker."""

from collections.abc import Mapping
from typing import Any

Scalar = str | int | float | bool | None


def flatten(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """The leaves of a config by path, joined by ``_``.

    Not by dots: W&B reads ``a.b`` as the key b of a mapping a. A node with a ``_target_`` becomes
    the name of its class, a list becomes text.

    >>> flatten({"optim": {"lr": 0.1, "schedule": {"_target_": "pkg.Cosine", "floor": 0}}})
    {'optim_lr': 0.1, 'optim_schedule': 'Cosine', 'optim_schedule_floor': 0}
    """
    flat: dict[str, Scalar] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "_target_" in value:
                flat[key] = str(value["_target_"]).rsplit(".", 1)[-1]
            flat |= {f"{key}_{inner}": leaf for inner, leaf in flatten(value).items()}
        elif key not in ("_target_", "_partial_"):
            flat[key] = value if isinstance(value, Scalar) else str(value)
    return flat
