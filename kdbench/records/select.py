"""Selects runs by conditions on values of their records, such as ``dataset=cifar100 seed<5``."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdbench.errors import ConfigError
from kdbench.records.record import RunRecord

_CONDITION = re.compile(r"([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*)")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Fields of a record -> keys of the config, for runs without a record.
_IN_CONFIG = {
    "dataset": "dataset.name",
    "teacher": "teacher.model.arch",
    "student": "student.arch",
    "objective": "objective.name",
    "epochs": "run.epochs",
    "protocol": "run.protocol",
    "precision": "run.precision",
}
_MAX_CONFIG = 10**6  # bytes


def look_up(record: RunRecord, name: str) -> Any:
    """The value at a path of a record, or else of its config; None if there is none.

    Args:
        record: of a run.
        name: such as "seed", "test.nll", "environment.git.commit", "temperature.tau".
    """
    first, *rest = name.split(".")
    found = getattr(record, first, None)
    if rest and not isinstance(found, Mapping):  # "temperature" is a name, and a part of the config
        found = record.config.get(first)
    for key in rest:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


@dataclass(frozen=True)
class Condition:
    """A condition that runs must meet.

    Attributes:
        name: a path, see ``look_up``.
        relation: one of = != < <= > >=.
        values: what it is compared with; for = and != any of several.
    """

    name: str
    relation: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{','.join(self.values)}"

    def holds(self, record: RunRecord) -> bool:
        """Whether a run meets it; a run without such a value meets only "!="."""
        return self.holds_for(look_up(record, self.name))

    def holds_for(self, found: Any) -> bool:
        """Whether a value meets it."""
        if self.relation in _ORDER:
            return isinstance(found, int | float) and _ORDER[self.relation](
                found, float(self.values[0])
            )
        return any(_equal(found, value) for value in self.values) == (self.relation == "=")


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Reads conditions such as "method=kd,dtkd", "seed<5" and "temperature.tau!=4".

    Raises:
        ConfigError: a text is not a condition, or compares the order with a non-number.
    """
    return tuple(_parse(text) for text in texts)


def require_known(conditions: Sequence[Condition], records: Sequence[RunRecord]) -> None:
    """Refuses conditions on a value that no run has, which would silently select none or all.

    Raises:
        ConfigError: there is such a condition.
    """
    for condition in conditions:
        if records and all(look_up(record, condition.name) is None for record in records):
            raise ConfigError(
                f"--where: no run has {condition.name!r}; give a field of record.json (dataset, "
                f"pair, method, temperature, seed, epochs, protocol, precision, ...) or a key of "
                f"the config (temperature.tau, optim.lr, ...)"
            )


def may_hold(conditions: Sequence[Condition], folder: Path) -> bool:
    """Whether a run without a record may meet conditions, according to its config.

    An unknown value does not exclude the run.

    Args:
        conditions: on fields of a record or keys of a config.
        folder: of the run.
    """
    config = _read_config(folder / ".hydra" / "config.yaml") if conditions else {}
    for condition in conditions:
        found = _in_config(config, condition.name)
        if found is not None and not condition.holds_for(found):
            return False
    return True


def _in_config(config: Mapping[str, Any], name: str) -> Any:
    """The value that a record would have for this config; None if unknown."""
    if name == "temperature":
        target = _in_config(config, "temperature._target_")
        return str(target).split(".")[-2:][0] if target else None  # as in config/identity.py
    found: Any = config
    for key in _IN_CONFIG.get(name, name).split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if name == "pair" and "${" in str(found):
        networks = [_in_config(config, role) for role in ("teacher", "student")]
        return "_".join(map(str, networks)) if all(networks) else None
    return None if isinstance(found, Mapping) or "${" in str(found) else found


def _read_config(path: Path) -> Mapping[str, Any]:
    """The unresolved config of a run; empty if it cannot be read."""
    try:
        text = path.read_text() if path.stat().st_size < _MAX_CONFIG else ""
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            return {}  # kdbench writes none, and nested aliases can fill the memory
        found = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _parse(text: str) -> Condition:
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--where: {text!r} is not a condition; write NAME=VALUE[,VALUE...], or one of "
            f"!= < <= > >= instead of =, in quotes: --where 'seed<5'"
        )
    name, relation, right = match.groups()
    if relation in _ORDER and not _is_number(right):
        raise ConfigError(f"--where: {text!r} needs a number after {relation}, found {right!r}")
    values = (right,) if relation in _ORDER else tuple(part.strip() for part in right.split(","))
    return Condition(name, relation, values)


def _equal(found: Any, value: str) -> bool:
    if isinstance(found, bool) or found is None:
        return str(found).lower() == value.lower()
    if isinstance(found, int | float):
        return _is_number(value) and found == float(value)
    return str(found) == value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
