"""Checks of a composed config that need no training. All problems are reported at once."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.build import build, build_optimizer
from kdbench.config.choices import options_of
from kdbench.config.compose import CONF
from kdbench.config.identity import (
    needs_teacher,
    strategy_name,
    teacher_config,
    trains_teacher,
    views_of,
)
from kdbench.config.schema import MEMO_MODES, PROTOCOLS, Config
from kdbench.config.stage import FROM_SCRATCH
from kdbench.config.targets import is_strategy, iter_targets, refuse
from kdbench.errors import ConfigError, KdbenchError, describe_interpolation
from kdbench.words import did_you_mean, plural

MAX_THREADS = 4096

Allowed = tuple[Callable[[Any], bool], str]  # predicate, description of the allowed values

_SEED: Allowed = (lambda v: 0 <= v < 2**63, "a whole number >= 0 and < 2^63")
_COUNT: Allowed = (lambda v: v >= 1, "a whole number >= 1")
_PATH: Allowed = (
    lambda v: bool(str(v).strip()),
    "a path, but it is empty; is a shell variable unset?",
)
_RATE: Allowed = (lambda v: 0 <= v < 1, "a number in [0, 1)")
_DECAY: Allowed = (lambda v: 0 <= v <= 1, "a number in [0, 1]")

RANGES: dict[str, Allowed] = {
    "run.epochs": _COUNT,
    "run.protocol": (lambda v: v in PROTOCOLS, f"one of {', '.join(PROTOCOLS)}"),
    "run.threads": (
        lambda v: v is None or 1 <= v <= MAX_THREADS,
        f"a whole number >= 1 and <= {MAX_THREADS}, or null for all cores",
    ),
    "run.checkpoint_epochs": _COUNT,
    "run.checkpoint_minutes": (lambda v: v > 0, "a number > 0"),
    "run.keep_checkpoints": (lambda v: v >= 2, "a whole number >= 2: one may be damaged"),
    "seed": _SEED,
    "run.data_seed": _SEED,
    "optim.lr": (lambda v: math.isfinite(v) and v > 0, "a finite number > 0"),
    "teacher.epochs": (lambda v: v is None or v >= 1, f"{_COUNT[1]}, or null"),
    "teacher.seed": _SEED,
    "teacher.tolerance": (lambda v: v >= 0, "percentage points >= 0"),
    "teacher.expected_top1": (
        lambda v: v is None or 0 <= v <= 100,
        "an accuracy in percent, 0 to 100, or null",
    ),
    "teacher.memo": (
        lambda v: v in MEMO_MODES,
        f"one of {', '.join(MEMO_MODES)} (in a YAML file with quotes: off alone means false)",
    ),
    "teacher.optim.lr": (lambda v: math.isfinite(v) and v > 0, "a finite number > 0"),
    "teacher.weights": _PATH,
    "dataset.batch_size": _COUNT,
    "dataset.eval_batch_size": _COUNT,
    "paths.outputs": _PATH,
    "paths.data": _PATH,
    "paths.teachers": _PATH,
    "paths.cache": _PATH,
}
# Keys that only some options have; skipped if missing or null.
OPTIONAL_RANGES: dict[str, Allowed] = {
    "dataset.root": _PATH,
    "student.weights": _PATH,
    **{
        f"{section}.optimizer.{name}": allowed
        for section in ("optim", "teacher.optim")
        for name, allowed in {
            "momentum": _RATE,
            "dampening": _DECAY,
            "weight_decay": _DECAY,
            "betas": (lambda v: all(0 <= b < 1 for b in v), "numbers in [0, 1)"),
            "eps": (lambda v: 0 < v < 1, "a number > 0 and < 1"),
        }.items()
    },
}


def check(cfg: DictConfig) -> None:
    """Raises ConfigError listing every problem in the composed config of a run."""
    raise_all([*find_problems(cfg), *_mismatches(cfg)])


def raise_all(problems: list[str]) -> None:
    """Raises one ConfigError that lists all problems, if there are any."""
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        count = plural(len(problems), "problem")
        raise ConfigError(f"{count} in the configuration:\n{listed}")


def find_problems(cfg: DictConfig) -> list[str]:
    """One sentence for each problem of a composed config."""
    problems, plain = _look_over(cfg)
    if plain is None:
        return problems
    nodes = {path: refuse(path, node) or _misfits(path, node) for path, node in iter_targets(plain)}
    for found in nodes.values():
        problems += found
    problems += _refused_values(cfg, {path for path, found in nodes.items() if found})
    return problems or _problems_of_recipe(cfg)


def _problems_of_recipe(cfg: DictConfig) -> list[str]:
    """Problems of the run that trains the teacher; the default recipe needs no check of its own."""
    if not trains_teacher(cfg) or tuple(cfg.teacher.recipe) == FROM_SCRATCH:
        return []
    try:
        return [f"teacher.recipe: {problem}" for problem in find_problems(teacher_config(cfg))]
    except ConfigError as error:
        return [str(error)]


def find_plain_problems(cfg: DictConfig) -> list[str]:
    """Problems found without torch: a finished run must be recognized before torch is imported."""
    return _look_over(cfg)[0]


def _look_over(cfg: DictConfig) -> tuple[list[str], dict | None]:
    """Problems visible without importing classes, and the resolved config (None: unresolvable)."""
    unresolved = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(unresolved, dict)
    unresolved.pop("hydra", None)
    missing = list(_missing_values(unresolved))
    if missing:
        return missing, None
    try:
        plain = {
            name: OmegaConf.to_container(cfg[name], resolve=True)
            if OmegaConf.is_config(cfg[name])
            else cfg[name]
            for name in unresolved
        }
    except OmegaConfBaseException as error:
        return [_unresolved(cfg, error)], None
    return [*_unknown_keys(plain, Config), *_out_of_range(cfg)], plain


def _unresolved(cfg: DictConfig, error: OmegaConfBaseException) -> str:
    text = describe_interpolation(error)
    if "'temperature." in text:
        strategy = strategy_name(cfg)
        text += f"; objective={cfg.objective.name} does not go with temperature={strategy}"
    return text


def _missing_values(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _missing_values(child, f"{path}.{key}")
    elif node == "???":
        key = path.lstrip(".")
        options = options_of(CONF / key) if "." not in key and (CONF / key).is_dir() else []
        hint = f", one of {', '.join(options)}" if options else ""
        yield f"{key} has no value; set it with {key}=...{hint}"


def _unknown_keys(plain: dict, schema: Any, path: str = "") -> list[str]:
    known = {field.name: field.type for field in fields(schema)}
    problems = []
    for key, value in plain.items():
        full = f"{path}{key}"
        if key not in known:
            siblings = [f"{path}{name}" for name in known]
            problems.append(f"{full} is not a key{did_you_mean(full, siblings, 2)}")
        elif is_dataclass(known[key]) and isinstance(value, dict):
            problems += _unknown_keys(value, known[key], f"{full}.")
    return problems


def _out_of_range(cfg: DictConfig) -> Iterator[str]:
    for key, (is_valid, allowed) in RANGES.items():
        yield from _refuse_value(key, OmegaConf.select(cfg, key), is_valid, allowed)
    for key, (is_valid, allowed) in OPTIONAL_RANGES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None:
            yield from _refuse_value(key, value, is_valid, allowed)


def _refuse_value(
    key: str, value: Any, is_valid: Callable[[Any], bool], allowed: str
) -> Iterator[str]:
    try:
        valid = is_valid(value)
    except TypeError:
        valid = False
    if not valid:
        yield f"{key}={value!r} must be {allowed}"


def _mismatches(cfg: DictConfig) -> Iterator[str]:
    """Keys of different sections that must agree in a run, where losses and data meet.

    Not part of ``find_problems``: an objective loaded for someone's own loop has no dataset.
    """
    classes, own = (OmegaConf.select(cfg, f"{s}.num_classes") for s in ("dataset", "temperature"))
    if own not in (None, classes) and needs_teacher(cfg):
        yield f"temperature.num_classes={own} must be dataset.num_classes={classes}"
    views = OmegaConf.select(cfg, "dataset.views") or {}
    for view in sorted(views_of(cfg.objective) - set(map(str, views))):
        yield (
            f"objective={cfg.objective.name} reads the view {view!r}, but dataset.views has "
            f"{', '.join(map(str, views)) or 'none'}; add it with "
            f"+view@dataset.views.{view}=fixmatch, or correct the name"
        )


def _misfits(path: str, node: dict) -> list[str]:
    """Checks a node against the signature of its target: unknown or missing arguments, types."""
    target = node["_target_"]
    try:
        owner = get_object(target)
    except Exception as error:
        return [f"{path}: _target_={target!r} cannot be imported: {error}"]
    parameters = inspect.signature(owner).parameters
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    if given.get("weights", "") is None:  # `build` drops it
        del given["weights"]
    if is_strategy(owner):
        given.pop("name", None)  # a label
    problems = []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        problems += [
            f"{path}.{key} is not an argument of {target}{did_you_mean(key, parameters, 2)}"
            for key in given
            if key not in parameters
        ]
    required = [name for name, p in parameters.items() if _is_required(p) and name not in given]
    if not node.get("_partial_"):
        problems += [
            f"{path}.{name} is missing: {target} needs it"
            for name in required
            if name != "temperature"  # an objective gets it from the temperature group
        ]
    hints = _type_hints(owner)
    return problems + [
        problem
        for key, value in given.items()
        if key in hints
        for problem in _wrong_type(f"{path}.{key}", value, hints[key])
    ]


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def _type_hints(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
    except NameError:  # annotations imported only for type checkers
        return {}


def _wrong_type(path: str, value: Any, hint: Any) -> list[str]:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if any(True for _ in iter_targets(value)):
        return []  # not built yet; its own node is checked
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return []
    candidates = [value, tuple(value)] if isinstance(value, list) else [value]
    for candidate in candidates:
        try:
            adapter.validate_python(candidate, strict=True)
        except ValidationError:
            continue
        return []
    wanted = getattr(hint, "__name__", None) if inspect.isclass(hint) else None
    return [f"{path}={value!r} must be of type {wanted or str(hint).replace('typing.', '')}"]


def _refused_values(cfg: DictConfig, wrong: set[str]) -> list[str]:
    """Constructs the parts, so that constructors can reject values they cannot use.

    Args:
        cfg: composed config.
        wrong: paths of nodes with known problems; they are skipped.
    """
    import torch

    from kdbench.model.compute import configure_compute
    from kdbench.model.features import example_output
    from kdbench.model.fit import require_fit
    from kdbench.outputs import FEATURES
    from kdbench.temperature.constant import Constant
    from kdbench.temperature.part import require_registered

    def check_fit(node: DictConfig) -> None:
        if any(path.startswith("dataset") for path in wrong):
            build(node)
            return
        data, size = cfg.dataset, cfg.dataset.image_size
        require_fit(lambda: build(node), (data.channels, size, size), data.num_classes)

    def check_features() -> None:
        needs = objective().needs & FEATURES
        networks = (cfg.student, cfg.teacher.model) if needs else ()
        for node in networks:  # shapes only
            size = cfg.dataset.image_size
            shape = (cfg.dataset.channels, size, size)
            example_output(build(node), shape, "preacts" in needs)

    objective = cache(lambda: build(cfg.objective, temperature=Constant(tau=1.0)))
    parameter = [{"params": [torch.zeros(1, requires_grad=True)]}]
    parts: dict[str, Callable[[], Any]] = {
        "run": lambda: configure_compute(cfg),
        "dataset": lambda: build(cfg.dataset),
        "student": lambda: check_fit(cfg.student),
        "objective": objective,
        "plugin": lambda: require_registered(build(cfg.plugin)),
        "optim.optimizer": lambda: build_optimizer(cfg.optim, parameter),
        "optim.schedule": lambda: build(cfg.optim.schedule),
        "tracker": lambda: build(cfg.tracker),
    }
    if needs_teacher(cfg):
        parts["temperature"] = lambda: require_registered(build(cfg.temperature))
        parts["teacher.model"] = lambda: check_fit(cfg.teacher.model)
    problems = [
        f"{path}: {problem}"
        for path, construct in parts.items()
        if not any(found.startswith(path) for found in wrong)
        if (problem := _refusal(construct))
    ]
    refused = None if problems or wrong else _refusal(check_features)
    return problems if refused is None else [f"objective: {refused}"]


def _refusal(construct: Callable[[], Any]) -> str | None:
    try:
        construct()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KdbenchError | ValueError):
                return str(cause)
            cause = cause.__cause__
        return f"{type(error).__name__}: {error}"
    return None
