"""User code: where it is imported from, and custom strategies on the command line."""

import os
import sys
from collections.abc import Sequence

from kdbench.config.targets import ALLOW_VARIABLE

_NODE = "temperature"  # the group whose options share no keys


def find_own_code() -> None:
    """Makes the current directory importable, as for ``python -m``, if user code is allowed.

    It is appended, so that a file there never shadows an installed package: the folder may come
    from an untrusted source.
    """
    here = os.getcwd()
    allowed = os.environ.get(ALLOW_VARIABLE) and not sys.flags.safe_path
    if allowed and not {"", here} & set(sys.path):
        sys.path.append(here)


def replace_strategy(overrides: Sequence[str]) -> list[str]:
    """Makes ``temperature._target_=mine.Mine temperature.k=2`` replace the default strategy whole.

    Hydra would merge both into the default strategy, keep its ``tau`` and reject ``k``. An option
    chosen by name (``temperature=cosine temperature._target_=...``) is still merged.
    """
    keys = {_key(o) for o in overrides if "=" in o or o[:1] == "~"}  # ignore the values of flags
    if f"{_NODE}._target_" not in keys or _NODE in keys:
        return list(overrides)
    rest = [o for o in overrides if not o.startswith(f"~{_NODE}.")]  # deleted with the whole node
    own = [f"++{o.lstrip('+')}" if _is_below(o) else o for o in rest]
    first = next(position for position, o in enumerate(rest) if _is_below(o))
    return [*own[:first], f"~{_NODE}", *own[first:]]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _is_below(override: str) -> bool:
    return _key(override).startswith(f"{_NODE}.")
