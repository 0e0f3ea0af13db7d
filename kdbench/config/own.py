"""Code of a user's own: where it is found, and a strategy of one's own on the command line."""

import os
import sys
from collections.abc import Sequence

from kdbench.config.targets import ALLOW_VARIABLE

_NODE = "temperature"  # the group whose options share no keys


def find_own_code() -> None:
    """Makes the current directory importable, as it is for ``python -m``, if own code is allowed.

    Last, so that a file in there never stands in for an installed package: people also work in
    folders that somebody sent them.
    """
    here = os.getcwd()
    allowed = os.environ.get(ALLOW_VARIABLE) and not sys.flags.safe_path
    if allowed and not {"", here} & set(sys.path):
        sys.path.append(here)


def replace_strategy(overrides: Sequence[str]) -> list[str]:
    """``temperature._target_=mine.Mine temperature.k=2`` has no key of the strategy it replaces.

    Hydra would merge both into the default strategy, keep its ``tau`` and refuse ``k``. An option
    that is chosen by name (``temperature=cosine temperature._target_=...``) stays what it is.
    """
    keys = {_key(o) for o in overrides if "=" in o or o[:1] == "~"}  # not the values of flags
    if f"{_NODE}._target_" not in keys or _NODE in keys:
        return list(overrides)
    rest = [o for o in overrides if not o.startswith(f"~{_NODE}.")]  # nothing is left to delete
    own = [f"++{o.lstrip('+')}" if _is_below(o) else o for o in rest]
    first = next(position for position, o in enumerate(rest) if _is_below(o))
    return [*own[:first], f"~{_NODE}", *own[first:]]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _is_below(override: str) -> bool:
    return _key(override).startswith(f"{_NODE}.")
