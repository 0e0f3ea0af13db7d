"""Who a run is: the run key, and the configuration of the training that makes its teacher.

No torch in here: a sweep asks for the key of every job, and a finished job must be recognised in
a fraction of the time that importing torch takes.
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

# Raised by hand when a change of the code changes the numbers of a run.
NUMERICS_VERSION = 3

# Where and by whom, not what: these do not change the result of a run.
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
# A run that distils nothing is the same run whatever these say.
ONLY_WITH_TEACHER = ("temperature",)

# What runs may differ in although they are trained in one pass.
OWN_IN_COHORT = ("run.checkpoint_epochs", "run.keep_checkpoints")

# Where these run, "auto" is not what it is on this machine.
_ELSEWHERE = ("kdbench.launch.slurm.SlurmExecutor", "kdbench.launch.ray.RayExecutor")

AnyConfig = DictConfig | Mapping[str, Any]  # as composed, or resolved to plain containers

SHORT = 10  # characters of a run key in a folder's name


class CohortKey(NamedTuple):
    """What runs must agree in to be trained in one pass.

    Attributes:
        shared: digest of dataset, augmentation, batch size, protocol, device and all of ``run``
            and ``speed``.
        teacher: digest of the teacher and how it is obtained; None goes with any.
    """

    shared: str
    teacher: str | None


def needs_teacher(cfg: AnyConfig) -> bool:
    """Whether the objective has a term that looks at a teacher."""
    return len(cfg["objective"]["terms"]) > 0


def views_of(objective: Mapping[str, Any] | DictConfig) -> set[str]:
    """Names of the views that an objective reads beside the weak one: see ``Objective.views``."""
    read = {str(term.get("view", WEAK)) for term in objective["terms"].values()}
    read |= {str(view) for view, weight in (objective.get("ce_views") or {}).items() if weight}
    return read - {WEAK}


def run_key(cfg: AnyConfig) -> str:
    """SHA-256 (hex) of everything that determines the result of a run.

    That is the resolved config less its volatile keys, the dataset's digest, the teacher's
    identity and the numerics version.

    Raises:
        DataError: the dataset is not where the config says.
        CheckpointError: the teacher's file is not where the config says.
    """
    return _run_key(resolve_config(cfg))


def dataset_digest(cfg: AnyConfig) -> str:
    """What stands for the dataset in a run key.

    Raises:
        DataError: it is not where the config says.
    """
    plain = resolve_config(cfg)
    return _dataset(json.dumps(plain["dataset"])).source(Path(plain["paths"]["cache"])).digest


def cohort_key(cfg: AnyConfig) -> CohortKey:
    """Runs with one key see the same batches and, if they ask a teacher, hear the same answers."""
    plain = resolve_config(cfg)
    sections = {name: plain[name] for name in ("dataset", "run", "speed", "paths")}
    shared = _without(sections, OWN_IN_COHORT)
    teacher = None
    if needs_teacher(plain):
        teacher = _digest([plain["teacher"], _teacher_identity(plain)])
    return CohortKey(_digest(shared), teacher)


def stable_config(cfg: AnyConfig) -> dict[str, Any]:
    """The resolved config as plain containers, less the keys that do not change a result."""
    return _stable(resolve_config(cfg))


def teacher_config(cfg: AnyConfig) -> DictConfig:
    """The run that trains the teacher of ``cfg``, as ``teacher.recipe`` says."""
    return mark_resolved(OmegaConf.create(_teacher_run(resolve_config(cfg))))


def teacher_job(cfg: AnyConfig) -> tuple[DictConfig, Path, str]:
    """Config, folder and key of the run that trains the teacher of a config."""
    training = teacher_config(cfg)
    key = run_key(training)
    teachers = Path(cfg["paths"]["teachers"])
    return training, teachers / training.dataset.name / f"{training.pair}-{key[:SHORT]}", key


def stage_folders(cfg: AnyConfig) -> list[Path]:
    """Folders of the runs that train the teacher of a config, and its teacher, and so on."""
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
    """The weight file of the teacher of a config; that of a training may not be there yet.

    Raises:
        CheckpointError: ``teacher.weights`` leads to no file.
    """
    if cfg["teacher"]["weights"] == AUTO:
        return teacher_job(cfg)[1] / WEIGHTS
    return find_weights(resolve_config(cfg))


def resolve_config(cfg: AnyConfig) -> dict[str, Any]:
    """The config of a run as plain containers, without Hydra's own part; those come back as is.

    Values have one spelling: numbers the type of what receives them, and ``run.precision=auto`` is
    what it means on this machine, unless the run is trained on another one.
    """
    if isinstance(cfg, dict):
        return cfg
    # Node by node: Hydra's own node names the run's folder, which holds the run key, so resolving
    # it would recurse.
    plain = {
        name: OmegaConf.to_container(cfg[name], resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(cfg[name])
        else cfg[name]
        for name in map(str, cfg)
        if name != "hydra"
    }
    left = [refuse_interpolation(*found) for found in find_interpolations(plain)]
    if left:  # of an escaped one, which the next reader of this config would resolve
        raise ConfigError("; ".join(left))
    if isinstance(cfg, DictConfig) and not is_resolved(cfg):
        plain = canonical(plain)
        executor = OmegaConf.select(cfg, "hydra.launcher.executor._target_")
        _add_stages(plain, source_of(cfg), is_here=executor not in _ELSEWHERE)
    return plain


def _add_stages(plain: dict[str, Any], source: ConfigSource, is_here: bool, depth: int = 0) -> None:
    """Composes the recipe of the teacher, and of its teacher, and so on, into ``teacher.stage``."""
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
    """Name of the temperature strategy; "none" where nothing is distilled."""
    if not needs_teacher(cfg):
        return "none"
    return str(cfg.temperature.get("name") or cfg.temperature._target_.split(".")[-2])


def describe(cfg: DictConfig, folder: Path, key: str) -> RunIdentity:
    """The names under which people find a run."""
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
    """The fields of a record that a run has before it has done anything, failed ones too."""
    names = ("run_key", "dataset", "pair", "method", "temperature", "objective", "seed")
    return {name: getattr(identity, name) for name in names} | {
        "role": cfg.role,
        "student": cfg.student.arch,
        "protocol": cfg.run.protocol,
        "epochs": cfg.run.epochs,
        "config": stable_config(cfg),
    }


def _teacher_choices(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """What tells teachers of one network apart."""
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
    if initial is not None:  # the content of the file, wherever it is
        content["config"]["student"]["weights"] = initial
    taught = {"teacher": plain["teacher"]["model"]} if needs_teacher(plain) else {}
    code = foreign_code({**config, **taught})
    if code:
        content["code"] = code
    return _digest(content)


def initial_weights_digest(cfg: AnyConfig) -> str | None:
    """SHA-256 of the file that the student starts from; None where it starts from its seed.

    Raises:
        CheckpointError: it is not where ``student.weights`` says.
    """
    weights = cfg["student"].get("weights")
    return None if weights is None else _digest_file(require_file("student.weights", weights))


def _stable(plain: Mapping[str, Any]) -> dict[str, Any]:
    without = VOLATILE if needs_teacher(plain) else VOLATILE + ONLY_WITH_TEACHER
    stable = _without(plain, ("teacher", *without))  # its identity stands beside the config
    if stable["student"].get("weights", "") is None:  # as if it did not stand there
        stable = _without(stable, ["student.weights"])
    return stable


def _teacher_identity(plain: Mapping[str, Any]) -> str:
    """What stands for the teacher in a run key.

    For a file: the digest of its content. For a teacher that is trained here: the key of that
    training, which determines the weights and is known before they exist. The digest of the
    weights that were used goes into the record and into every checkpoint.
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
    own = {**teacher, "stage": None}  # of a run without a teacher: it says nothing
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
    return build(json.loads(node))  # which takes longer than all the rest


@lru_cache
def _digest_of_unchanged(path: Path, size: int, modified: int) -> str:
    return file_digest(path)  # a sweep asks for the same teacher a thousand times


def _without(plain: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A copy without the keys that have these paths."""
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
    require_names(resolve_config(_root_))  # now: the folder is made before anything is checked
    try:
        return run_key(_root_)[:SHORT]
    except KdbenchError:  # files are missing; the run itself says so, in place of Hydra's launcher
        return "unidentified"


# At import: folders are named by them, in whatever process a config is resolved.
OmegaConf.register_new_resolver("kdbench.key", _key_in_folder, replace=True)
OmegaConf.register_new_resolver(
    "kdbench.strategy", lambda *, _root_: strategy_name(_root_), replace=True
)
