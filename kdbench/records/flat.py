"""A nested config as flat columns, which is what tables and filters of a tracker can use."""

from collections.abc import Mapping
from typing import Any

Scalar = str | int | float | bool | None


def flatten(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """The leaves of a config by their path, with ``_`` between the parts.

    Not with a dot: W&B takes ``a.b`` for the key b of a mapping a. A node that is built from a
    class is there as the name of that class, a list as text.

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
