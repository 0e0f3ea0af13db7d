"""Checks the command line before Hydra does, and reports all typos and wrong values at once.

Hydra stops at the first problem and suggests no correction. Here every override is tried on its
own, and every value of a sweep, so a typo in the last job does not surface after the others ran.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.check import find_plain_problems, find_problems, raise_all
from kdbench.config.choices import HIDDEN
from kdbench.config.compose import ConfigSource, Loader, compose, hydra_context
from kdbench.config.own import replace_strategy
from kdbench.config.syntax import explain, is_readable, quote_recipes
from kdbench.errors import first_line, known_error
from kdbench.words import did_you_mean, suggest

_NO_DELETION = "does not support deletion"  # from OmegaConf's message for a typed key
# Options of the groups teacher and student whose network is chosen by the key `arch`.
_LIBRARIES = {"timm", "torchvision"}
# The key to suggest for a number that is given to a group.
_NUMBER_OF_GROUP = {"temperature": "tau", "optim": "lr"}


def compose_checked(overrides: Sequence[str]) -> DictConfig:
    """The composed config of these overrides; raises ConfigError with all problems, if any."""
    overrides = replace_strategy(overrides)
    with hydra_context() as loader:
        cfg = compose_sound(loader, overrides)
    raise_all(find_problems(cfg))
    return cfg


def compose_sound(loader: Loader, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The config of one run; composed only once, unless a problem must be explained.

    Args:
        loader: of ``hydra_context``.
        overrides: as on the command line, without sweeps.
        with_hydra: keeps Hydra's own node.

    Raises:
        ConfigError: lists all problems, if any is found without torch.
    """
    try:
        cfg = compose(loader, overrides, with_hydra)
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(
            quote_recipes(overrides)
        )
        networks = _wrong_networks(parsed, loader.get_group_options("student"))
        if not [*networks, *find_plain_problems(cfg)]:
            return cfg
    except (HydraException, OmegaConfBaseException):
        pass
    raise_all(list(dict.fromkeys(_find_problems(loader, overrides, values=True))))
    return compose(loader, overrides, with_hydra)  # raises Hydra's own error, if any


def check_overrides(
    overrides: Sequence[str], values: bool = True, source: ConfigSource | None = None
) -> None:
    """Raises ConfigError listing every problem of a command line, which may be a sweep.

    Args:
        overrides: as on the command line.
        values: False skips the checks that need torch, and all but the first point of a sweep,
            unless a problem is found.
        source: where configs come from.
    """
    overrides = quote_recipes(overrides)
    source = with_searchpath(source or ConfigSource(), overrides)
    with hydra_context(source) as loader:
        problems = list(_find_problems(loader, overrides, values))
        if problems and not values:
            problems = list(_find_problems(loader, overrides, values=True))
        raise_all(list(dict.fromkeys(problems)))


def with_searchpath(source: ConfigSource, overrides: Sequence[str]) -> ConfigSource:
    """The source with the places in ``hydra.searchpath``, from its config or the overrides."""
    chosen = [override for override in overrides if override.startswith("hydra.searchpath=")]
    if source == ConfigSource() and not chosen:
        return source
    try:
        with hydra_context(source) as loader:
            cfg = compose(loader, chosen, with_hydra=True)
    except (HydraException, OmegaConfBaseException):
        return source  # another problem, reported with all the others
    return source._replace(searchpath=tuple(cfg.hydra.searchpath))


def _find_problems(loader: Loader, overrides: Sequence[str], values: bool) -> Iterator[str]:
    readable = [override for override in overrides if is_readable(override)]
    for written in overrides:
        if written not in readable:
            yield explain(written, lambda option: _groups_with(loader, option))
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(readable)
    yield from _wrong_networks(parsed, loader.get_group_options("student"))
    sound = []
    choices = [o for o in parsed if loader.get_group_options(o.key_or_group)]
    for choice in choices:
        unknown = list(_unknown_options(loader, choice))
        yield from unknown
        sound += [] if unknown else [choice]
    chosen = [_single_values(o)[0] for o in sound]
    try:
        known = list(_all_keys(compose(loader, chosen, with_hydra=True)))
    except (HydraException, OmegaConfBaseException) as error:
        yield _reason(error)
        return
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    for override in (o for o in parsed if o not in choices):
        problem = _unknown_key(override, known, groups)
        if problem:
            yield problem
        else:
            sound.append(override)
    points = [_single_values(override) for override in sound]
    if values and any(len(point) > 1 for point in points):
        fixed = [point[0] for point in points if len(point) == 1]
        alone = _refused_alone(loader, [*chosen, *fixed])
        yield from alone.values()  # once, not for each point of the sweep
        points = [point for point in points if point[0] not in alone]
    variations = _variations(points)
    # Composing takes 0.1 s, and Hydra composes every job of a sweep itself before starting any.
    for variation in variations if values else islice(variations, 1):
        yield from _problems_of_config(loader, variation, values)


def _groups_with(loader: Loader, option: str) -> list[str]:
    groups = [group for group in loader.list_groups("") if group not in HIDDEN]
    return [group for group in groups if option in loader.get_group_options(group)]


def _wrong_networks(parsed: list[Override], known: list[str]) -> Iterator[str]:
    """Networks chosen by ``arch`` alone, which would keep the settings of another network."""
    given = {o.key_or_group: o for o in parsed if not o.is_delete()}

    def values(key: str) -> list[str]:
        return list(map(str, _plain_values(given[key]))) if key in given else []

    for role, key in (("student", "student.arch"), ("teacher", "teacher.model.arch")):
        for arch in values(key):
            library, _, name = arch.rpartition(":")
            instead = f"{role}={library} {key}={arch}" if library else f"{role}={name}"
            chosen = values(role)
            if (not chosen or set(chosen) - _LIBRARIES) if library else name in known:
                yield f"{key}={arch} would keep the settings of another network; write {instead}"


def _unknown_options(loader: Loader, override: Override) -> Iterator[str]:
    group = override.key_or_group
    options = loader.get_group_options(group)
    for folder in loader.list_groups(group):
        options += [f"{folder}/{name}" for name in loader.get_group_options(f"{group}/{folder}")]
    for value in _plain_values(override):
        for name in value if isinstance(value, list) else [value]:
            if name is not None and str(name) not in options:
                hint = _suggest_key(group, name) or did_you_mean(str(name), options, 3) or "."
                yield f"{group}={name} does not exist{hint} Available: {', '.join(options)}"
        if isinstance(value, list) and len(value) > 1 and not group.startswith("hydra"):
            several = [name for name in options if set(name.split("_")) == set(map(str, value))]
            listed = f"{group}=[{','.join(map(str, value))}]"
            hint = suggest([f"{group}={name}" for name in several])
            yield f"{listed} would merge several options; choose one{hint}"


def _suggest_key(group: str, value: Any) -> str:
    """Suggests a key for a number that is given to a group."""
    if isinstance(value, int | float) and group in _NUMBER_OF_GROUP:
        return suggest([f"{group}.{_NUMBER_OF_GROUP[group]}={value}"])
    return ""


def _unknown_key(override: Override, known: list[str], groups: list[str]) -> str | None:
    key = override.key_or_group
    if override.is_delete() or override.is_add() or override.is_force_add() or key in known:
        return None
    of_hydra = key.startswith("hydra.")
    known = [full for full in known if full.startswith("hydra.") == of_hydra]
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [full for full in known if full.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return f"{key} is not a key{suggest(same_leaf[:3])}"
    hint = did_you_mean(key, [*known, *groups], 2)
    leaves = {full.rsplit(".", 1)[-1] for full in known}
    return f"{key} is not a key{hint or did_you_mean(leaf, leaves, 2)}"


def _variations(swept: list[list[str]]) -> Iterator[list[str]]:
    """One change at a time: a value is valid or not by itself, and a grid would be too large."""
    first = [values[0] for values in swept]
    yield first
    for position, values in enumerate(swept):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


def _problems_of_config(loader: Loader, overrides: Sequence[str], values: bool) -> Iterator[str]:
    try:
        cfg = compose(loader, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra stops at the first bad override: try each alone, then the good ones together.
        alone = _refused_alone(loader, overrides)
        yield from alone.values() or [_reason(error)]
        rest = [single for single in overrides if single not in alone]
        if len(rest) < len(overrides):
            yield from _problems_of_config(loader, rest, values)
    else:
        yield from find_problems(cfg) if values else find_plain_problems(cfg)


def _refused_alone(loader: Loader, overrides: Sequence[str]) -> dict[str, str]:
    """Problems of single overrides, given the choices; none if Hydra accepts all together."""
    overrides = list(dict.fromkeys(overrides))
    if _refusal(loader, overrides) is None:
        return {}
    choices = [each for each in overrides if loader.get_group_options(each.partition("=")[0])]
    reasons = {
        single: _refusal(loader, [*choices, single])
        for single in overrides
        if single not in choices
    }
    return {single: f"{single}: {reason}" for single, reason in reasons.items() if reason}


def _refusal(loader: Loader, overrides: Sequence[str]) -> str | None:
    try:
        compose(loader, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    known = known_error(error.__cause__ or error)
    text = first_line(known or error.__cause__ or error)
    return "this key cannot be removed; set it instead" if _NO_DELETION in text else text


def _single_values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _plain_values(override: Override) -> list:
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def _all_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        full = f"{prefix}{key}"
        yield full
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            child = cfg[key]
            if isinstance(child, DictConfig):
                yield from _all_keys(child, f"{full}.")
