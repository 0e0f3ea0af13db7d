"""Who a run is: the run key, and the configuration of the training that makes its teacher.

No torch in here: a sweep asks for the key of every job, and a finished job must be recognised in
a fraction of the time that importing torch takes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import build
from kdbench.digest import file_digest
from kdbench.errors import CheckpointError

# Raised by hand when a change of the code changes the numbers of a run.
NUMERICS_VERSION = 1

# Where and by whom, not what: these do not change the result of a run.
VOLATILE = (
    "paths",
    "tracker",
    "pair",
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

# The objective that trains a teacher, whatever its students are trained with.
FROM_SCRATCH = {
    "_target_": "kdbench.objective.objective.Objective",
    "name": "ce",
    "ce_weight": 1.0,
    "terms": {},
}

SHORT = 10  # characters of a run key in a folder's name


def needs_teacher(cfg: DictConfig) -> bool:
    """Whether the objective has a term that looks at a teacher."""
    return len(cfg.objective.terms) > 0


def run_key(cfg: DictConfig) -> str:
    """SHA-256 (hex) of everything that determines the result of a run.

    That is the resolved config less its volatile keys, the dataset's digest, the teacher's
    identity and the numerics version.

    Raises:
        DataError: the dataset is not where the config says.
        CheckpointError: the teacher's file is not where the config says.
    """
    described = {
        "config": stable_config(cfg),
        "dataset": build(cfg.dataset).source(Path(cfg.paths.cache)).digest,
        "teacher": teacher_identity(cfg) if needs_teacher(cfg) else None,
        "numerics": NUMERICS_VERSION,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def stable_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, less the keys that do not change a result."""
    plain = _resolved(cfg)
    plain.pop("teacher")  # its identity stands beside the config
    for key in VOLATILE + (() if needs_teacher(cfg) else ONLY_WITH_TEACHER):
        *parents, leaf = key.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        node.pop(leaf, None)
    return plain


def teacher_identity(cfg: DictConfig) -> str:
    """What stands for the teacher in a run key.

    For a file: the digest of its content. For a teacher that is trained here: the key of that
    training, which determines the weights and is known before they exist. The digest of the
    weights that were used goes into the record and into every checkpoint.
    """
    if cfg.teacher.weights == "auto":
        return f"trained:{run_key(teacher_config(cfg))}"
    path = Path(cfg.teacher.weights)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(
            f"teacher.weights={str(path)!r} must be a file, found {found} there; give the "
            f"path of a checkpoint, or teacher.weights=auto to train the teacher here"
        )
    return f"file:{file_digest(path)}"


def teacher_config(cfg: DictConfig) -> DictConfig:
    """The run that trains the teacher of ``cfg``: an ordinary run from scratch."""
    plain = _resolved(cfg)
    teacher = plain["teacher"]
    plain.update(
        student=teacher["model"],
        optim=teacher["optim"],
        objective=FROM_SCRATCH,
        plugin={"_target_": "kdbench.plugin.base.Plugin"},
        seed=teacher["seed"],
        method="teacher",
        pair=teacher["model"]["arch"],
    )
    plain["run"].update(
        epochs=teacher["epochs"], precision=teacher["precision"], data_seed=teacher["seed"]
    )
    return OmegaConf.create(plain)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    # Hydra's own node names the run's folder, which holds the run key: resolving it would recurse.
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    return cast(dict[str, Any], plain)


def strategy_name(cfg: DictConfig) -> str:
    """Name of the temperature strategy: the stem of its file; "none" where nothing is distilled."""
    if not needs_teacher(cfg):
        return "none"
    return str(cfg.temperature._target_).split(".")[-2]


def register_resolvers() -> None:
    """``${kdbench.key:}`` and ``${kdbench.strategy:}`` in ``conf/``: parts of a run's folder."""
    OmegaConf.register_new_resolver(
        "kdbench.key", lambda *, _root_: run_key(_root_)[:SHORT], replace=True
    )
    OmegaConf.register_new_resolver(
        "kdbench.strategy", lambda *, _root_: strategy_name(_root_), replace=True
    )
