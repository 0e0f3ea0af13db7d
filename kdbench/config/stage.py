"""Composes the run that trains a teacher from ``teacher.recipe``.

A recipe is a list of overrides. They choose the teacher's method, objective, temperature, plugin
and own teacher. Data, paths, precision and protocol come from the run that needs the teacher;
optimizer, seed and epochs from that run's ``teacher`` section, unless the recipe sets them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.canonical import canonical
from kdbench.config.compose import (
    CONF,
    ConfigSource,
    Loader,
    compose,
    current_source,
    hydra_context,
    network_choice,
)
from kdbench.config.syntax import quote_recipes
from kdbench.errors import ConfigError, known_error
from kdbench.words import shorten

AUTO = "auto"  # teacher.weights: trained here, by its recipe
FROM_SCRATCH = ("method=scratch",)  # the default recipe, the reference for others
DEEPEST = 16  # stages of a chain
LONGEST = 60  # characters in the name of a chain

# What a recipe chooses itself, and what it shares with the run that needs the teacher.
_OWN = ("method", "objective", "temperature", "plugin")
_SHARED = ("dataset", "run", "speed")
_REFUSED = ("student", "paths", "tracker", "table", "debug", "hydra")


def compose_stage(plain: Mapping[str, Any], source: ConfigSource) -> dict[str, Any]:
    """The sections in which the run that trains the teacher differs from the run itself.

    Args:
        plain: resolved config of a run whose teacher is trained here.
        source: where configs come from.

    Returns:
        Whole sections ``method``, ``objective``, ``temperature``, ``plugin``, ``optim``,
        ``teacher`` (None without one), ``seed``, ``pair``; and the keys of ``dataset``, ``run``
        and ``speed`` that differ.

    Raises:
        ConfigError: the recipe cannot be composed.
    """
    teacher, recipe = plain["teacher"], tuple(plain["teacher"]["recipe"])
    with _explaining(recipe), hydra_context(source):
        usual, own = (_Stage(plain, each, source) for each in (FROM_SCRATCH, recipe))
        shared = {name: _differences(usual.raw[name], own.raw[name]) for name in _SHARED}
        shared["run"].pop("epochs", None)  # may depend on the dataset
        for key in own.explicit:
            _copy(own.raw, shared, key)
        usual_config, config = usual.resolve({name: {} for name in _SHARED}), own.resolve(shared)
    run = {**shared["run"], **{key: config["run"][key] for key in ("precision", "data_seed")}}
    epochs = config["run"]["epochs"] if teacher["epochs"] is None else teacher["epochs"]
    run["epochs"] = config["run"]["epochs"] if "run.epochs" in own.explicit else epochs
    optim = config["optim"]
    if not any(key.split(".")[0] == "optim" for key in own.keys):
        optim = merge(teacher["optim"], _differences(usual_config["optim"], optim))
    distills = len(config["objective"]["terms"]) > 0
    return {
        **{name: config[name] for name in _OWN},
        "optim": optim,
        "teacher": config["teacher"] if distills else None,
        "seed": config["seed"],
        "pair": config["pair"] if distills else teacher["model"]["arch"],
        **shared,
        "run": run,
    }


class _Stage:
    """A recipe composed for the teacher of a run."""

    def __init__(
        self, plain: Mapping[str, Any], recipe: Sequence[str], source: ConfigSource
    ) -> None:
        self.plain = plain
        arch, dataset = plain["teacher"]["model"]["arch"], plain["dataset"]["name"]
        self.composed, overrides = _compose(source, dataset, arch, tuple(recipe))
        self.keys = [each.key_or_group for each in overrides if not each.is_delete()]
        self.explicit = [key for key in self.keys if "." in key or key == "seed"]
        self.raw = canonical(_to_plain(self.composed, _SHARED))
        if "seed" in self.explicit:
            self.explicit.append("run.data_seed")
        if "run.data_seed" not in self.explicit:
            self.raw["run"].pop("data_seed")
        self.raw["seed"] = self.composed.seed

    def resolve(self, shared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The config with the data, paths and training of the run that needs the teacher."""
        plain, teacher = self.plain, self.plain["teacher"]
        cfg = OmegaConf.create(OmegaConf.to_container(self.composed, resolve=False))
        assert isinstance(cfg, DictConfig)
        seed = self.raw["seed"] if "seed" in self.explicit else teacher["seed"]
        run = {**plain["run"], "precision": teacher["precision"], "data_seed": seed}
        run.pop("epochs")
        cfg.seed = seed
        cfg.student, cfg.paths, cfg.tracker = teacher["model"], plain["paths"], plain["tracker"]
        cfg.dataset = merge(plain["dataset"], shared["dataset"])
        cfg.speed = merge(plain["speed"], shared["speed"])
        for key, value in merge(run, shared["run"]).items():
            if key != "epochs":
                cfg.run[key] = value
        return canonical(_to_plain(cfg))


def merge(base: Any, changes: Any) -> Any:
    """``base`` with the values of ``changes``; a node with a ``_target_`` is replaced whole."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    both = {key: merge(base[key], changes[key]) for key in changes if key in base}
    return {**base, **changes, **both}


def name_teacher(teacher: Mapping[str, Any]) -> str:
    """The name of a teacher: its network, or the chain that trains it.

    "resnet56-kd-resnet20" is a resnet20 distilled from a resnet56.

    Args:
        teacher: section of a resolved config, or of a record.
    """
    arch, stage = str(teacher["model"]["arch"]), teacher.get("stage")
    if stage is None or tuple(teacher["recipe"]) == FROM_SCRATCH:
        return arch
    own = name_teacher(stage["teacher"]) if stage["teacher"] is not None else None
    return _chain(own, stage["method"], arch)


def _name_composed(cfg: DictConfig, source: ConfigSource, depth: int = 0) -> str:
    """``name_teacher`` for a config whose recipe is not composed yet."""
    teacher = cfg.teacher
    arch, recipe = teacher.model.arch, tuple(teacher.recipe)
    if recipe == FROM_SCRATCH or teacher.weights != AUTO or OmegaConf.select(teacher, "stage"):
        return name_teacher(teacher) if teacher.weights == AUTO else arch
    refuse_depth(depth, recipe)
    with _explaining(recipe):
        stage, _ = _compose(source, cfg.dataset.name, arch, recipe)
    own = _name_composed(stage, source, depth + 1) if len(stage.objective.terms) else None
    return _chain(own, stage.method, arch)


def first_of_chain(teacher: Mapping[str, Any]) -> str:
    """The first network in the chain of a teacher; its own if it has no teacher.

    Args:
        teacher: as for ``name_teacher``.
    """
    stage = teacher.get("stage")
    if stage is None or stage["teacher"] is None:
        return str(teacher["model"]["arch"])
    return first_of_chain(stage["teacher"])


def _chain(teacher: str | None, method: str, arch: str) -> str:
    if teacher is None and f"method={method}" in FROM_SCRATCH:
        return arch
    return shorten("-".join(filter(None, (teacher, method, arch))), LONGEST)


def refuse_depth(depth: int, recipe: Sequence[str]) -> None:
    """Raises ConfigError if a chain has too many stages, for example a circular one."""
    if depth >= DEEPEST:
        raise ConfigError(
            f"teacher.recipe={_write(recipe)} makes a chain of more than {DEEPEST} teachers; it is "
            f"probably circular; choose a recipe that ends with method=scratch"
        )


def source_of(cfg: DictConfig) -> ConfigSource:
    """The source of a composed config; the current source if unknown."""
    places = OmegaConf.select(cfg, "hydra.runtime.config_sources")
    if not places:
        return current_source()
    found: dict[str, list[str]] = {}
    for place in places:
        path = place.path if "://" in place.path else f"file://{place.path}"
        found.setdefault(place.provider.partition(" in ")[0], []).append(path)
    paths = {
        name: Path(found[name][0].removeprefix("file://"))
        for name in ("main", "command-line")
        if name in found
    }
    return ConfigSource(
        conf=paths.get("main", CONF),
        name=cfg.hydra.job.config_name or ConfigSource().name,
        folder=paths.get("command-line"),
        searchpath=tuple(found.get("hydra.searchpath", [])),
    )


@lru_cache(maxsize=256)
def _compose(
    source: ConfigSource, dataset: str, arch: str, recipe: tuple[str, ...]
) -> tuple[DictConfig, list[Override]]:
    with hydra_context(source) as loader:
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides(quote_recipes(recipe))
        _require_own(overrides, recipe)
        chosen = [f"dataset={dataset}"] if dataset in loader.get_group_options("dataset") else []
        return compose(loader, [*chosen, *_choose(loader, arch), *recipe]), overrides


def _choose(loader: Loader, arch: str) -> list[str]:
    """Selects the network as student, so that its settings apply; else the default one."""
    choice = network_choice("student", arch)
    option = choice[0].partition("=")[2]
    return choice if "/" in option or option in loader.get_group_options("student") else []


def _require_own(overrides: Sequence[Override], recipe: Sequence[str]) -> None:
    for override in overrides:
        section = override.key_or_group.split(".")[0]
        if override.is_sweep_override():
            raise ConfigError(
                f"teacher.recipe={_write(recipe)}: {override.input_line} has several values, but a "
                f"recipe trains one teacher"
            )
        if section in _REFUSED or override.key_or_group == "dataset":
            raise ConfigError(
                f"teacher.recipe={_write(recipe)}: {override.input_line} is not allowed in a "
                f"recipe: the run's teacher=NAME chooses the network, and dataset, paths and "
                f"tracker are those of the run"
            )


@contextmanager
def _explaining(recipe: Sequence[str]) -> Iterator[None]:
    """Re-raises Hydra's errors about a recipe as ConfigErrors that name the recipe."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        known = known_error(error.__cause__ or error)
        reason = str(known or error.__cause__ or error).strip().splitlines()[0]
        nested = isinstance(known, ConfigError) and reason.startswith("teacher.recipe")
        where = "" if nested else f"teacher.recipe={_write(recipe)}: "
        raise ConfigError(f"{where}{reason}") from error


def _write(recipe: Sequence[str]) -> str:
    return f"[{','.join(map(str, recipe))}]"


def _to_plain(cfg: DictConfig, names: Sequence[str] | None = None) -> dict[str, Any]:
    return {
        name: OmegaConf.to_container(cfg[name], resolve=True)
        if OmegaConf.is_config(cfg[name])
        else cfg[name]
        for name in (map(str, cfg) if names is None else names)
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``new`` that differ from ``old``; nodes of another class are kept whole."""
    found = {}
    for key, value in new.items():
        before: Any = old.get(key)
        if _are_alike(before, value):
            if inner := _differences(before, value):
                found[key] = inner
        elif key not in old or before != value:
            found[key] = value
    return found


def _are_alike(old: Any, new: Any) -> bool:
    """Whether two nodes have the same class, and the second has all keys of the first."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    return old.get("_target_") == new.get("_target_") and not old.keys() - new.keys()


def _copy(source: Mapping[str, Any], into: dict[str, Any], key: str) -> None:
    """Copies the value at a dotted path, if both have the outermost section."""
    *path, leaf = key.split(".")
    if not path or path[0] not in into:
        return
    for part in path:
        source, into = source[part], into.setdefault(part, {})
    into[leaf] = source[leaf]


def _teacher_label(*, _root_: DictConfig) -> str:
    return _name_composed(_root_, source_of(_root_))


# At import, as in compose.py: the names of pairs, and so of folders, depend on it.
OmegaConf.register_new_resolver("kdbench.teacher", _teacher_label, replace=True)
