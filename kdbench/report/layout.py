"""Assigns runs to rows and columns of a table.

A cell is a mean over seeds, so its runs may differ only in the seed. Otherwise columns are split by
epochs, protocol and precision, and rows by any other difference between the configs:
"kd, temperature.tau=8". The most common setting of a row is not named, so that one experiment
changes only its own label.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kdbench.config.choices import own_choice
from kdbench.config.compose import CONF
from kdbench.config.stable import stable_targets
from kdbench.errors import ConfigError
from kdbench.records.identity import shorten_unique
from kdbench.records.record import RunRecord

CellKey = tuple[str, str]  # row, column
RecordsByCell = dict[CellKey, list[RunRecord]]
Facts = Mapping[str, Any]

ROW, COLUMN = 0, 1
_PER_SEED = ("seed", "run.data_seed")
# Identity rather than settings: always named if it differs.
_IDENTITY = ("method", "temperature", "objective", "pair")
_MAX_VALUE = 40  # characters per value in a label
_NUMBER = re.compile(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


def method_label(method: str, temperature: str) -> str:
    """A row label: the method, and the strategy unless it is the method's own: "kd, cosine"."""
    own = (own_temperature(method), method, "none")
    return method if temperature in own else f"{method}, {temperature}"


def pair_label(dataset: str, pair: str) -> str:
    """A column label: "cifar100, resnet56_resnet20"."""
    return f"{dataset}, {pair.removeprefix(f'{dataset}_')}"


AXES: dict[str, Callable[[RunRecord], str]] = {
    "method": lambda record: method_label(record.method, record.temperature),
    "pair": lambda record: pair_label(record.dataset, record.pair),
    "dataset": lambda record: record.dataset,
    "temperature": lambda record: record.temperature,
    "objective": lambda record: record.objective,
    "teacher": lambda record: record.teacher or "none",
    "student": lambda record: record.student,
}


def axis_label(record: RunRecord, axis: str, other: str) -> str:
    """The row (or column) of a run, given the other axis.

    If the other axis is the temperature, a method is named without it: "kd", not "kd, cosine".
    """
    return record.method if (axis, other) == ("method", "temperature") else AXES[axis](record)


def natural_key(label: str) -> list[Any]:
    """Sort key for natural order: numbers by value, so tau=8 before tau=16."""
    parts = _NUMBER.split(label)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def own_temperature(method: str) -> str | None:
    """The strategy that ``method=NAME`` chooses; None if there is no such method."""
    return own_choice(CONF, method, "temperature")


def base_label(label: str) -> str:
    """A label without the settings that ``lay_out`` added."""
    return ", ".join(part for part in label.split(", ") if "=" not in part)


def lay_out(records: Sequence[RunRecord], rows: str, columns: str) -> RecordsByCell:
    """Groups runs by (row, column), so that those of a cell differ only in seeds.

    Args:
        records: runs, done or failed.
        rows: one of ``AXES``.
        columns: another.

    Raises:
        ConfigError: there is no such axis, or both are the same.
    """
    for option, axis in (("--rows", rows), ("--columns", columns)):
        if axis not in AXES:
            raise ConfigError(f"{option}={axis!r} is unknown; allowed are {', '.join(AXES)}")
    if rows == columns:
        raise ConfigError(f"--rows and --columns are both {rows!r}; choose two different ones")
    cells: RecordsByCell = defaultdict(list)
    for record in records:
        key = axis_label(record, rows, columns), axis_label(record, columns, rows)
        cells[key].append(record)
    return _split(_split(dict(cells), COLUMN, _circumstances), ROW, _settings)


def _split(
    cells: RecordsByCell, axis: int, describe: Callable[[RunRecord], Facts]
) -> RecordsByCell:
    """Splits each row (or column) that has a cell with differing runs."""
    lines: dict[str, list[CellKey]] = defaultdict(list)
    for key in cells:
        lines[key[axis]].append(key)
    found: RecordsByCell = defaultdict(list)
    for label, keys in lines.items():
        facts = {key: [describe(record) for record in cells[key]] for key in keys}
        differing = _distinguishing_names(list(facts.values()))
        usual = _usual({key: _done(cells[key]) for key in keys}, differing) if axis == ROW else {}
        for key in keys:
            for record, fact in zip(cells[key], facts[key], strict=True):
                named = [n for n in differing if usual.get((key, n)) != repr(fact.get(n))]
                finer = ", ".join([label, *(f"{name}={_write(fact.get(name))}" for name in named)])
                found[(finer, key[1]) if axis == ROW else (key[0], finer)].append(record)
    return dict(found)


def _distinguishing_names(groups: list[list[Facts]]) -> list[str]:
    """The names, chosen greedily, that distinguish all differing facts within each group."""
    names = []
    for name in dict.fromkeys(name for group in groups for facts in group for name in facts):
        finer = [part for group in groups for part in _partition(group, name)]
        if len(finer) > len(groups):
            names.append(name)
            groups = finer
    return names


def _done(records: Sequence[RunRecord]) -> list[Facts]:
    """Settings of the finished runs; of all if none is finished."""
    done = [record for record in records if record.status == "done"]
    return [_settings(record) for record in done or records]


def _usual(
    facts: Mapping[CellKey, list[Facts]], names: Sequence[str]
) -> dict[tuple[CellKey, str], str]:
    """By cell and name, the value of most runs in the cell, which labels leave out.

    A name is left out in all cells of a row or in none, so that columns stay comparable.
    """
    found: dict[tuple[CellKey, str], str] = {}
    for name in names:
        counts = {key: Counter(repr(f.get(name)) for f in group) for key, group in facts.items()}
        most = {key: count.most_common(1)[0] for key, count in counts.items()}
        clear = all(2 * times > counts[key].total() for key, (_, times) in most.items())
        if clear and name not in _IDENTITY:
            found |= {(key, name): value for key, (value, _) in most.items()}
    return found


def _partition(group: list[Facts], name: str) -> list[list[Facts]]:
    parts: dict[str, list[Facts]] = defaultdict(list)
    for facts in group:
        parts[repr(facts.get(name))].append(facts)
    return list(parts.values())


def _circumstances(record: RunRecord) -> Facts:
    return {
        "pair": record.pair,
        "epochs": record.epochs,
        "protocol": record.protocol,
        "precision": record.precision,
    }


def _settings(record: RunRecord) -> Facts:
    names = ("method", "temperature", "objective")
    return {
        **{name: getattr(record, name) for name in names},
        **{name: v for name, v in _leaves(stable_targets(record.config)) if name not in _PER_SEED},
        "teacher": (record.teacher_digest or "none")[:8],  # different files may share a name
    }


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _write(value: Any) -> str:
    # A comma and space separates the parts of a label.
    return shorten_unique(str(value).replace(", ", ","), _MAX_VALUE)
