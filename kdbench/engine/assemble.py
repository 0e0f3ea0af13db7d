"""Makes the parts that the loop moves: data, teacher and learners of a config."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import build, build_objective, build_optimizer
from kdbench.config.identity import run_key, stable_config, strategy_name, teacher_config
from kdbench.data.base import DataModule
from kdbench.digest import state_digest
from kdbench.engine.device import Compute
from kdbench.engine.journal import Journal
from kdbench.engine.learner import Learner
from kdbench.engine.seed import RandomState, derive_seed
from kdbench.engine.teacher import Teacher
from kdbench.engine.trainer import Run
from kdbench.model.checkpoint import Weights, fit_weights, load_weights
from kdbench.tracker.base import RunIdentity

log = logging.getLogger(__name__)


def open_data(cfg: DictConfig, compute: Compute) -> DataModule:
    """The dataset of a config, on the device where it is needed."""
    return build(cfg.dataset).open(
        cache=Path(cfg.paths.cache),
        device=compute.device,
        data_seed=derive_seed(cfg.run.data_seed, "data"),
        protocol=cfg.run.protocol,
    )


def load_teacher(cfg: DictConfig, file: Path, compute: Compute) -> tuple[Teacher, Weights]:
    """The frozen teacher, and what its file says of itself.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    weights = load_weights(file, role="teacher")
    network = build(cfg.teacher.model)
    fit_weights(network, weights, file, cfg.teacher.model.arch)
    return Teacher(network, compute, state_digest(network.state_dict())), weights


def prepare_run(
    cfg: DictConfig, folder: Path, key: str, teacher: Teacher | None, compute: Compute
) -> Run:
    """A learner and its journal, at the point where its last attempt left off."""
    learner = build_learner(cfg, compute)
    journal = Journal(
        describe(cfg, folder, key),
        stable_config(cfg),
        teacher.digest if teacher and learner.objective.needs_teacher else None,
        build(cfg.tracker),
        selection="test/top1" if cfg.run.protocol == "paper" else "val/top1",
        keep_checkpoints=cfg.run.keep_checkpoints,
        checkpoint_epochs=cfg.run.checkpoint_epochs,
    )
    journal.resume(learner)
    return Run(learner, journal)


def build_learner(cfg: DictConfig, compute: Compute) -> Learner:
    """A fresh learner; everything random in it comes from its own seed."""
    random = RandomState(derive_seed(cfg.seed, "learner"), compute.device)
    with random.turn():
        student = build(cfg.student)  # first, so that one seed is one initialisation
        objective, plugin = build_objective(cfg), build(cfg.plugin)
    compute.place(student)
    objective.to(compute.device)
    plugin.to(compute.device)
    groups = [{"params": list(student.parameters())}]
    groups += objective.param_groups() + plugin.param_groups()
    return Learner(
        student,
        objective,
        plugin,
        build_optimizer(cfg.optim, groups),
        build(cfg.optim.schedule),
        random,
        compute,
    )


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
    )


def teacher_job(cfg: DictConfig) -> tuple[DictConfig, Path, str]:
    """Config, folder and key of the run that trains the teacher of a config."""
    training = teacher_config(cfg)
    key = run_key(training)
    folder = Path(cfg.paths.teachers) / training.dataset.name / f"{training.pair}-{key[:10]}"
    return training, folder, key


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Keeps a config where Hydra keeps that of a run which it starts itself."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
