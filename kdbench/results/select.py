"""Finding a value in a record, and choosing runs by such values: ``dataset=cifar100 seed<5``."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.errors import ConfigError
from kdbench.results.record import RunRecord

_CONDITION = re.compile(r"([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*)")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def look_up(record: RunRecord, name: str) -> Any:
    """The value at a path of a record, or else of its config; None where there is none.

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
        """Whether a run meets it; one that has no such value meets "!=" and nothing else."""
        found = look_up(record, self.name)
        if self.relation in _ORDER:
            return isinstance(found, int | float) and _ORDER[self.relation](
                found, float(self.values[0])
            )
        return any(_equal(found, value) for value in self.values) == (self.relation == "=")


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Reads conditions such as "method=kd,dtkd", "seed<5" and "temperature.tau!=4".

    Raises:
        ConfigError: a text is none, or orders by something that is not a number.
    """
    return tuple(_parse(text) for text in texts)


def require_known(conditions: Sequence[Condition], records: Sequence[RunRecord]) -> None:
    """Refuses a condition on something that no run has: it would quietly leave nothing, or all.

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


def _parse(text: str) -> Condition:
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--where: {text!r} is no condition; write NAME=VALUE[,VALUE...], or one of "
            f"!= < <= > >= in the place of =, in quotes: --where 'seed<5'"
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
