"""A readable listing of a method's settings per pair, with sources. Does not import torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from kdbench.columns import align_columns
from kdbench.config.choices import describe, options_of
from kdbench.config.compose import CONF, compose, hydra_context
from kdbench.config.identity import needs_teacher, resolve_config
from kdbench.config.tuned import PairSettings, find_pair, read_settings
from kdbench.engine.setting import leaves
from kdbench.errors import ConfigError
from kdbench.words import did_you_mean

PUBLISHED, AS_METHOD = "published", "published, method's default"
OURS, NOBODY = "ours", "not published, method's default"

_ALWAYS = ("run.epochs", "dataset.batch_size", "optim.lr")
_NAMES = ("_target_", "name")
_FAR = "imagenet"  # its pairs are not used with other datasets


class PairValues(NamedTuple):
    """The setting of a pair.

    Attributes:
        pair: its name.
        values: key -> composed value.
        kind: PUBLISHED, AS_METHOD, OURS or NOBODY.
        source: who published it, or the reason for it; empty if there is none.
    """

    pair: str
    values: Mapping[str, Any]
    kind: str
    source: str


def find_settings(method: str) -> dict[str, list[PairValues]]:
    """The settings of a method by dataset, listed pairs first.

    Args:
        method: name of a file in ``conf/method``.

    Raises:
        ConfigError: there is no such method.
    """
    methods = options_of(CONF / "method")
    if method not in methods:
        hint = did_you_mean(method, methods) or "."
        raise ConfigError(f"method={method} does not exist{hint} Available: {', '.join(methods)}")
    listed = read_settings(CONF, method)
    datasets = list(listed) or ["cifar100"]
    return {dataset: list(_pairs(method, dataset, listed)) for dataset in datasets}


def write_settings(method: str) -> str:
    """The settings of a method as text: a table per dataset, and the sources."""
    sources: list[str] = []
    found = find_settings(method)
    parts = [f"method={method}: {describe(CONF / 'method' / f'{method}.yaml')}"]
    for dataset, pairs in found.items():
        columns, common = _split(pairs)
        shared = ", ".join(f"{key}={_text(value)}" for key, value in common.items())
        lines = [_line(each, columns, sources) for each in pairs]
        head = [dataset, *columns, "setting"]
        parts += [align_columns([head, *lines]), *([f"all pairs: {shared}"] if shared else [])]
    parts += ["\n".join(f"[{number}] {source}" for number, source in enumerate(sources, 1))]
    return "\n\n".join(filter(None, parts))


def _pairs(method: str, dataset: str, listed: PairSettings) -> Iterator[PairValues]:
    own = listed.get(dataset, {})
    every = [p for p in options_of(CONF / "pair") if p.startswith(_FAR) == (dataset == _FAR)]
    with hydra_context() as loader:
        for pair in [*own, *(pair for pair in every if pair not in own)]:
            cfg = compose(loader, [f"dataset={dataset}", f"pair={pair}", f"method={method}"])
            found = find_pair(CONF, method, dataset, pair)
            kind = NOBODY
            if found is not None and pair in own:
                published = PUBLISHED if found.values else AS_METHOD
                kind = published if found.is_published else OURS
            yield PairValues(pair, dict(_values(cfg, method)), kind, found.source if found else "")


def _values(cfg: DictConfig, method: str) -> Iterator[tuple[str, Any]]:
    """The keys by which settings are compared: weights, temperature, and those in the files."""
    plain = resolve_config(cfg)
    named = {
        key
        for pairs in read_settings(CONF, method).values()
        for setting in pairs.values()
        for key in setting.values
    }
    for key, value in leaves({name: plain[name] for name in sorted(plain)}):
        section, _, leaf = key.rpartition(".")
        is_weight = section.startswith("objective") and (
            leaf.endswith("weight") or section.endswith("ce_views")
        )
        is_tau = section == "temperature" and needs_teacher(plain) and leaf not in _NAMES
        if key in named or key in _ALWAYS or is_weight or is_tau:
            yield key, value


def _split(pairs: Sequence[PairValues]) -> tuple[list[str], dict[str, Any]]:
    """The keys in which the pairs differ, and the common ones with their values."""
    keys = list(dict.fromkeys(key for each in pairs for key in each.values))
    same = {key: pairs[0].values.get(key) for key in keys}
    differ = [key for key in keys if any(each.values.get(key) != same[key] for each in pairs)]
    return differ, {key: value for key, value in same.items() if key not in differ}


def _line(found: PairValues, columns: Sequence[str], sources: list[str]) -> list[str]:
    if found.source and found.source not in sources:
        sources.append(found.source)
    number = f" [{sources.index(found.source) + 1}]" if found.source else ""
    values = [_text(found.values.get(column)) for column in columns]
    return [found.pair, *values, f"{found.kind}{number}"]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
