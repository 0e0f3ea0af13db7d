"""The identity of a run: its run key, and the config of the run that trains its teacher.

Does not import torch: a sweep computes the key of every job, and a finished job must be recognized
in a fraction of the time that importing torch takes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import build, find_interpolations, refuse_interpolation
from kdbench.config.canonical import canonical, is_resolved, mark_resolved
from kdbench.config.code import foreign_code
from kdbench.config.compose import ConfigSource, current_source
from kdbench.config.names import require_names
from kdbench.config.stable import keyed_config
from kdbench.config.stage import AUTO, compose_stage, merge, refuse_depth, source_of
from kdbench.config.weights import find_weights, require_file
from kdbench.data.base import Dataset
from kdbench.digest import file_digest
from kdbench.errors import ConfigError, KdbenchError
from kdbench.machine import resolve_precision
from kdbench.outputs import WEAK
from kdbench.records.identity import TEACHER, RunIdentity
from kdbench.records.record import WEIGHTS

# Incremented by hand when a code change alters the results of runs.
NUMERICS_VERSION = 3

# Keys that do not affect the result of a run.
VOLATILE = (
    "paths",
    "tracker",
    "pair",
    "table",
    "role",
    "dataset.root",
    "dataset.download",
    "dataset.workers",
    "run.device",
    "run.threads",
    "run.checkpoint_epochs",
    "run.checkpoint_minutes",
    "run.keep_checkpoints",
)
# Keys that do not affect the result of a run without distillation.
ONLY_WITH_TEACHER = ("temperature",)

# Keys in which the runs of a cohort may differ.
OWN_IN_COHORT = ("run.checkpoint_epochs", "run.keep_checkpoints")

# Executors on other machines, where "auto" may resolve differently.
_ELSEWHERE = ("kdbench.launch.slurm.SlurmExecutor", "kdbench.launch.ray.RayExecutor")

AnyConfig = DictConfig | Mapping[str, Any]  # as composed, or resolved to plain containers

SHORT = 10  # characters of a run key in a folder name


class CohortKey(NamedTuple):
    """What the runs of a cohort must have in common.

    Attributes:
        shared: digest of dataset, augmentation, batch size, protocol, device and all of ``run``
            and ``speed``.
        teacher: digest of the teacher and how it is obtained; None is compatible with any.
    """

    shared: str
    teacher: str | None


def needs_teacher(cfg: AnyConfig) -> bool:
    """Whether the objective has a distillation term."""
    return len(cfg["objective"]["terms"]) > 0


def views_of(objective: Mapping[str, Any] | DictConfig) -> set[str]:
    """Names of the views that an objective reads besides the weak one: see ``Objective.views``."""
    read = {str(term.get("view", WEAK)) for term in objective["terms"].values()}
    read |= {str(view) for view, weight in (objective.get("ce_views") or {}).items() if weight}
    return read - {WEAK}


def run_key(cfg: AnyConfig) -> str:
    """SHA-256 (hex) of everything that determines the result of a run.

    That is the resolved config without its volatile keys, the dataset's digest, the teacher's
    identity and the numerics version.

    Raises:
        DataError: the dataset was not found.
        CheckpointError: the teacher's file was not found.
    """
    return _run_key(resolve_config(cfg))


def dataset_digest(cfg: AnyConfig) -> str:
    """The digest that represents the dataset in a run key.

    Raises:
        DataError: the dataset was not found.
    """
    plain = resolve_config(cfg)
    return _dataset(json.dumps(plain["dataset"])).source(Path(plain["paths"]["cache"])).digest


def cohort_key(cfg: AnyConfig) -> CohortKey:
    """Runs with equal keys train on the same batches and, if any, the same teacher outputs."""
    plain = resolve_config(cfg)
    sections = {name: plain[name] for name in ("dataset", "run", "speed", "paths")}
    shared = _without(sections, OWN_IN_COHORT)
    teacher = None
    if needs_teacher(plain):
        teacher = _digest([plain["teacher"], _teacher_identity(plain)])
    return CohortKey(_digest(shared), teacher)


def stable_config(cfg: AnyConfig) -> dict[str, Any]:
    """The resolved config as plain containers, without the keys that do not affect the result."""
    return _stable(resolve_config(cfg))


def teacher_config(cfg: AnyConfig) -> DictConfig:
    """The run that trains the teacher of ``cfg``, as ``teacher.recipe`` says."""
    return mark_resolved(OmegaConf.create(_teacher_run(resolve_config(cfg))))


def teacher_job(cfg: AnyConfig) -> tuple[DictConfig, Path, str]:
    """Config, folder and key of the run that trains the teacher of ``cfg``."""
    training = teacher_config(cfg)
    key = run_key(training)
    teachers = Path(cfg["paths"]["teachers"])
    return training, teachers / training.dataset.name / f"{training.pair}-{key[:SHORT]}", key


def stage_folders(cfg: AnyConfig) -> list[Path]:
    """Folders of the runs that train the teacher of ``cfg``, the teacher of that teacher, etc."""
    plain, found = resolve_config(cfg), []
    while trains_teacher(plain):
        training, folder, _ = teacher_job(plain)
        found.append(folder)
        plain = resolve_config(training)
    return found


def trains_teacher(cfg: AnyConfig) -> bool:
    """Whether the run has a teacher that is trained here."""
    return needs_teacher(cfg) and bool(cfg["teacher"]["weights"] == AUTO)


def teacher_file(cfg: AnyConfig) -> Path:
    """The weight file of the teacher; it may not exist yet if the teacher is trained here.

    Raises:
        CheckpointError: ``teacher.weights`` does not lead to a file.
    """
    if cfg["teacher"]["weights"] == AUTO:
        return teacher_job(cfg)[1] / WEIGHTS
    return find_weights(resolve_config(cfg))


def resolve_config(cfg: AnyConfig) -> dict[str, Any]:
    """The config of a run as plain containers, without Hydra's node; plain ones are returned as is.

    Values are canonical: numbers have the type of the parameter that receives them, and
    ``run.precision=auto`` is resolved for this machine, unless the run is trained elsewhere.
    """
    if isinstance(cfg, dict):
        return cfg
    # Section by section: Hydra's node has the run's folder, whose name contains the run key, so
    # resolving it would recurse.
    plain = {
        name: OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(cfg[name])
        else cfg[name]
        for name in map(str, cfg)
        if name != "hydra"
    }
    left = [refuse_interpolation(*found) for found in find_interpolations(plain)]
    if left:  # from an escaped one, which the next resolution would expand
        raise ConfigError("; ".join(left))
    if isinstance(cfg, DictConfig) and not is_resolved(cfg):
        plain = canonical(plain)
        executor = OmegaConf.select(cfg, "hydra.launcher.executor._target_")
        _add_stages(plain, source_of(cfg), is_here=executor not in _ELSEWHERE)
    return plain


def _add_stages(plain: dict[str, Any], source: ConfigSource, is_here: bool, depth: int = 0) -> None:
    """Composes the teacher's recipe into ``teacher.stage``, recursively for chains."""
    if is_here:
        _decide_precision(plain)
    teacher = plain["teacher"]
    if not trains_teacher(plain) or teacher.get("stage") is not None:
        return
    refuse_depth(depth, teacher["recipe"])
    stage = teacher["stage"] = compose_stage(plain, source)
    training = _teacher_run(plain)
    _add_stages(training, source, is_here, depth + 1)
    stage["run"]["precision"] = training["run"]["precision"]
    stage["teacher"] = training["teacher"] if stage["teacher"] is not None else None
    teacher["epochs"] = stage["run"]["epochs"]


def _decide_precision(plain: dict[str, Any]) -> None:
    for section in ("run", "teacher"):
        if "precision" in plain.get(section, {}):
            device = plain["run"]["device"]
            plain[section]["precision"] = resolve_precision(plain[section]["precision"], device)


def strategy_name(cfg: DictConfig) -> str:
    """Name of the temperature strategy; "none" without distillation."""
    if not needs_teacher(cfg):
        return "none"
    return str(cfg.temperature.get("name") or cfg.temperature._target_.split(".")[-2])


def describe(cfg: DictConfig, folder: Path, key: str) -> RunIdentity:
    """The names of a run in folders, logs and trackers."""
    return RunIdentity(
        run_key=key,
        folder=folder,
        dataset=cfg.dataset.name,
        pair=cfg.pair,
        method=cfg.method,
        temperature=strategy_name(cfg),
        objective=cfg.objective.name,
        seed=cfg.seed,
        table=cfg.table,
        role=cfg.role,
        teacher_choices=_teacher_choices(resolve_config(cfg)["teacher"])
        if needs_teacher(cfg)
        else {},
    )


def known_before(cfg: DictConfig, identity: RunIdentity) -> dict[str, Any]:
    """The fields of a record that are known before the run starts, even if it fails."""
    names = ("run_key", "dataset", "pair", "method", "temperature", "objective", "seed")
    return {name: getattr(identity, name) for name in names} | {
        "role": cfg.role,
        "student": cfg.student.arch,
        "protocol": cfg.run.protocol,
        "epochs": cfg.run.epochs,
        "config": stable_config(cfg),
    }


def _teacher_choices(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that distinguish teachers of the same architecture."""
    trained_here = teacher["weights"] == AUTO
    keys = ("weights", "epochs", "seed", "precision") if trained_here else ("weights",)
    recipe = {"recipe": " ".join(teacher["recipe"])} if trained_here else {}
    return {key: teacher[key] for key in keys} | recipe


def _run_key(plain: Mapping[str, Any]) -> str:
    require_names(plain)
    config = _stable(plain)
    content = {
        "config": keyed_config(config),
        "dataset": dataset_digest(plain),
        "teacher": _teacher_identity(plain) if needs_teacher(plain) else None,
        "numerics": NUMERICS_VERSION,
    }
    initial = initial_weights_digest(plain)
    if initial is not None:  # the content of the file, not its path
        content["config"]["student"]["weights"] = initial
    teacher = {"teacher": plain["teacher"]["model"]} if needs_teacher(plain) else {}
    code = foreign_code({**config, **teacher})
    if code:
        content["code"] = code
    return _digest(content)


def initial_weights_digest(cfg: AnyConfig) -> str | None:
    """SHA-256 of the file that initializes the student; None for random initialization.

    Raises:
        CheckpointError: ``student.weights`` was not found.
    """
    weights = cfg["student"].get("weights")
    return None if weights is None else _digest_file(require_file("student.weights", weights))


def _stable(plain: Mapping[str, Any]) -> dict[str, Any]:
    without = VOLATILE if needs_teacher(plain) else VOLATILE + ONLY_WITH_TEACHER
    stable = _without(plain, ("teacher", *without))  # hashed separately, by its identity
    if stable["student"].get("weights", "") is None:  # same key as without it
        stable = _without(stable, ["student.weights"])
    return stable


def _teacher_identity(plain: Mapping[str, Any]) -> str:
    """The string that represents the teacher in a run key.

    For a file, the digest of its content. For a teacher that is trained here, the key of its run,
    which determines the weights and is known before they exist. The digest of the weights actually
    used is stored in the record and in every checkpoint.
    """
    if plain["teacher"]["weights"] == AUTO:
        return f"trained:{_run_key(_teacher_run(plain))}"
    return f"file:{_digest_file(find_weights(plain))}"


def _digest_file(path: Path) -> str:
    stat = path.stat()
    return _digest_of_unchanged(path, stat.st_size, stat.st_mtime_ns)


def _teacher_run(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config of the run that trains the teacher."""
    teacher = plain["teacher"]
    stage = teacher.get("stage") or compose_stage(plain, current_source())
    own = {**teacher, "stage": None}  # without a teacher of its own, it has no effect
    return {
        **plain,
        **stage,
        **{name: merge(plain[name], stage[name]) for name in ("dataset", "run", "speed")},
        "student": teacher["model"],
        "teacher": dict(stage["teacher"] or own),
        "table": None,  # tables share their teachers
        "role": TEACHER,
    }


@lru_cache
def _dataset(node: str) -> Dataset:
    return build(json.loads(node))  # slower than the rest of the key


@lru_cache
def _digest_of_unchanged(path: Path, size: int, modified: int) -> str:
    return file_digest(path)  # a sweep needs the same digest a thousand times


def _without(plain: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A copy without the keys at these paths."""
    kept = dict(plain)
    for key in keys:
        first, _, rest = key.partition(".")
        if rest and first in kept:
            kept[first] = _without(kept[first], [rest])
        else:
            kept.pop(first, None)
    return kept


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key_in_folder(*, _root_: DictConfig) -> str:
    require_names(resolve_config(_root_))  # the folder is created before the config is checked
    try:
        return run_key(_root_)[:SHORT]
    except KdbenchError:  # files are missing; the run reports it, not Hydra's launcher
        return "unidentified"


# At import: folder names use them in every process that resolves a config.
OmegaConf.register_new_resolver("kdbench.key", _key_in_folder, replace=True)
OmegaConf.register_new_resolver(
    "kdbench.strategy", lambda *, _root_: strategy_name(_root_), replace=True
)
