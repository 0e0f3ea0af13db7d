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
from kdbench.config.canonical import canonical
from kdbench.config.choices import read_option
from kdbench.config.code import foreign_code
from kdbench.config.names import require_names
from kdbench.config.stable import keyed_config
from kdbench.data.base import Dataset
from kdbench.data.folder import describe_folder
from kdbench.digest import file_digest
from kdbench.errors import CheckpointError, ConfigError, KdbenchError
from kdbench.machine import resolve_precision
from kdbench.records.identity import TEACHER, RunIdentity

# Raised by hand when a change of the code changes the numbers of a run.
NUMERICS_VERSION = 3

# Where and by whom, not what: these do not change the result of a run.
VOLATILE = (
    "paths",
    "tracker",
    "pair",
    "published",
    "table",
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

_RESOLVED = "kdbench_resolved"  # a flag of OmegaConf's

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


def stable_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, less the keys that do not change a result."""
    return _stable(resolve_config(cfg))


def teacher_config(cfg: AnyConfig) -> DictConfig:
    """The run that trains the teacher of ``cfg``: an ordinary run from scratch."""
    return mark_resolved(OmegaConf.create(_teacher_run(resolve_config(cfg))))


def teacher_job(cfg: AnyConfig) -> tuple[DictConfig, Path, str]:
    """Config, folder and key of the run that trains the teacher of a config."""
    training = teacher_config(cfg)
    key = run_key(training)
    teachers = Path(cfg["paths"]["teachers"])
    return training, teachers / training.dataset.name / f"{training.pair}-{key[:SHORT]}", key


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
    if isinstance(cfg, DictConfig) and not cfg._get_flag(_RESOLVED):
        plain = canonical(plain)
        if OmegaConf.select(cfg, "hydra.launcher.executor._target_") not in _ELSEWHERE:
            _decide_precision(plain)
    return plain


def mark_resolved(cfg: DictConfig) -> DictConfig:
    """Says of a config that was made from a resolved one that its values are final."""
    cfg._set_flag(_RESOLVED, True)
    return cfg


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
        teacher_choices=_teacher_choices(resolve_config(cfg)["teacher"])
        if needs_teacher(cfg)
        else {},
    )


def known_before(cfg: DictConfig, identity: RunIdentity) -> dict[str, Any]:
    """The fields of a record that a run has before it has done anything, failed ones too."""
    names = ("run_key", "dataset", "pair", "method", "temperature", "objective", "seed")
    return {name: getattr(identity, name) for name in names} | {
        "student": cfg.student.arch,
        "protocol": cfg.run.protocol,
        "epochs": cfg.run.epochs,
        "config": stable_config(cfg),
    }


def _teacher_choices(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """What tells teachers of one network apart."""
    trained_here = teacher["weights"] == "auto"
    keys = ("weights", "epochs", "seed", "precision") if trained_here else ("weights",)
    return {key: teacher[key] for key in keys}


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
    return None if weights is None else _digest_file("student.weights", weights)


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
    if plain["teacher"]["weights"] == "auto":
        return f"trained:{_run_key(_teacher_run(plain))}"
    return f"file:{_digest_file('teacher.weights', plain['teacher']['weights'])}"


def _digest_file(key: str, place: str) -> str:
    path = Path(place)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        remedy = ", or teacher.weights=auto to train the teacher here" * key.startswith("teacher")
        raise CheckpointError(
            f"{key}={str(path)!r} must be a file, found {found} there; give the path of a "
            f"checkpoint{remedy}"
        )
    stat = path.stat()
    return _digest_of_unchanged(path, stat.st_size, stat.st_mtime_ns)


def _teacher_run(plain: Mapping[str, Any]) -> dict[str, Any]:
    teacher = plain["teacher"]
    run = {"epochs": teacher["epochs"], "precision": teacher["precision"]}
    return {
        **plain,
        "student": teacher["model"],
        "optim": teacher["optim"],
        # Whatever its students are trained with.
        "objective": _option("objective", "ce"),
        "plugin": _option("plugin", "none"),
        "seed": teacher["seed"],
        "method": TEACHER,
        "pair": teacher["model"]["arch"],
        "table": None,  # tables share their teachers
        "run": {**plain["run"], **run, "data_seed": teacher["seed"]},
    }


@lru_cache
def _option(group: str, name: str) -> dict[str, Any]:
    return read_option(group, name)  # a sweep asks for them in every job


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


def register_resolvers() -> None:
    """``${kdbench.key:}``, ``${kdbench.strategy:}``, ``${kdbench.folder:}`` in ``conf/``."""
    OmegaConf.register_new_resolver("kdbench.key", _key_in_folder, replace=True)
    OmegaConf.register_new_resolver("kdbench.folder", describe_folder, replace=True)
    OmegaConf.register_new_resolver(
        "kdbench.strategy", lambda *, _root_: strategy_name(_root_), replace=True
    )
