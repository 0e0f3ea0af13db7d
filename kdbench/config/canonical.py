"""Canonical values: two spellings of one value must not be two runs."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from kdbench.config.code import annotations
from kdbench.config.targets import OPTIMIZERS

_FLOATS = re.compile(r"(?:Sequence|Iterable|[Ll]ist|[Tt]uple)\[float(?:, (?:float|\.\.\.))*\]")
_RESOLVED = "kdbench_resolved"  # an OmegaConf flag
_FLOAT_VALUES = re.compile(r"(?:[Dd]ict|Mapping)\[str, float\]")


def canonical(node: Any) -> Any:
    """A resolved config with every number in the type of the parameter that receives it.

    This makes ``temperature.tau=4`` and ``=4.0`` equal. Types are read from the signature of each
    ``_target_``; without annotation, or with both int and float, a value is left as written.
    """
    if isinstance(node, Mapping):
        types = _types(node.get("_target_"))
        return {key: _convert(canonical(child), types(str(key))) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [canonical(child) for child in node]
    return node


def mark_resolved(cfg: DictConfig) -> DictConfig:
    """Marks a config, built from a resolved one, as having final values."""
    cfg._set_flag(_RESOLVED, True)
    return cfg


def is_resolved(cfg: DictConfig) -> bool:
    """Whether a config was marked by ``mark_resolved``."""
    return bool(cfg._get_flag(_RESOLVED))


def _types(target: Any) -> Any:
    """A function from an argument of a target to its annotation."""
    if target in OPTIMIZERS:
        return lambda name: "float | tuple[float, float]"  # all numbers in torch's optimizers
    known = annotations(target) if isinstance(target, str) else {}
    return lambda name: known.get(name, "")


def _convert(value: Any, annotation: str) -> Any:
    annotation = re.sub(r"^Optional\[(.*)\]$", r"\1", annotation.strip("'\""))
    kinds = {kind.strip() for kind in annotation.split("|")}
    if "float" in kinds and "int" not in kinds and _is_int(value):
        return float(value)
    if isinstance(value, list) and any(map(_FLOATS.fullmatch, kinds)):
        return [float(each) if _is_int(each) else each for each in value]
    if isinstance(value, dict) and any(map(_FLOAT_VALUES.fullmatch, kinds)):
        return {key: float(each) if _is_int(each) else each for key, each in value.items()}
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
