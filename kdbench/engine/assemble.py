"""Builds data, teacher and learners from a config."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from kdbench.config.build import build, build_objective, build_optimizer
from kdbench.config.identity import describe, stable_config
from kdbench.data.base import DataModule
from kdbench.digest import state_digest
from kdbench.engine.journal import Journal
from kdbench.engine.learner import Learner
from kdbench.engine.seed import RandomState, derive_seed
from kdbench.engine.trainer import Run
from kdbench.errors import ResourceError
from kdbench.model.checkpoint import Weights, fit_weights, load_weights
from kdbench.model.compute import Compute, describe_machine
from kdbench.model.features import example_output
from kdbench.objective.objective import Objective
from kdbench.outputs import FEATURES, Outputs
from kdbench.teacher.logit_cache import LogitCache
from kdbench.teacher.memo import Memo, MemoIdentity, MemoryStore, Store
from kdbench.teacher.memo_file import FileStore
from kdbench.teacher.teacher import Teacher
from kdbench.temperature.part import require_registered

log = logging.getLogger(__name__)

# Dataset keys that determine the network's input for a numbered view.
PREPROCESSING = ("mean", "std", "augmentation", "image_size")


def open_data(cfg: DictConfig, compute: Compute) -> DataModule:
    """Opens the config's dataset on the device that uses it."""
    return build(cfg.dataset).open(
        cache=Path(cfg.paths.cache),
        device=compute.device,
        data_seed=derive_seed(cfg.run.data_seed, "data"),
        protocol=cfg.run.protocol,
    )


def load_teacher(cfg: DictConfig, file: Path, compute: Compute) -> tuple[Teacher, Weights]:
    """The frozen teacher, and its weights with their metadata.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the network.
    """
    weights = load_weights(file, role="teacher")
    network = build(cfg.teacher.model)
    fit_weights(network, weights, file, cfg.teacher.model.arch)
    return Teacher(network, compute, state_digest(network.state_dict())), weights


def open_logit_cache(
    cfg: DictConfig, teacher_digest: str, data: DataModule, compute: Compute, threads: int
) -> LogitCache:
    """The disk cache of the teacher's logits on evaluation splits."""
    dataset = stable_config(cfg)["dataset"]
    identity = {
        "teacher": teacher_digest,
        "data": data.digest,
        "dataset": dataset,
        "machine": describe_machine(compute, threads),
    }
    return LogitCache(Path(cfg.paths.cache) / "teacher_logits", identity)


def open_memo(
    cfg: DictConfig,
    teacher_digest: str,
    data: DataModule,
    compute: Compute,
    objectives: Sequence[Objective] = (),
) -> Memo | None:
    """Opens the teacher memo; if there is none, logs why and returns None.

    Args:
        cfg: of a run with this teacher.
        teacher_digest: SHA-256 of the teacher's weights.
        data: the images.
        compute: device, precision and memory format.
        objectives: those that use the teacher; the memo does not store features.
    """
    mode = cfg.teacher.memo
    if mode == "off":
        return None
    with_features = [each for each in objectives if each.needs & FEATURES]
    if with_features:
        log.info(
            "teacher.memo=%s is off for objective %s: it needs features, the memo has only logits",
            mode,
            ", ".join(sorted({each.name for each in with_features})),
        )
        if len(with_features) == len(objectives):
            return None
    if data.num_views is None:
        log.info(
            "teacher.memo=%s is off: the augmentation of %s has no finite set of views, so hardly "
            "any view repeats",
            mode,
            cfg.dataset.name,
        )
        return None
    identity = _identify_memo(cfg, teacher_digest, data, data.num_views, compute)
    try:
        store: Store = (
            FileStore(Path(cfg.paths.cache) / "memo", identity, compute.device)
            if mode == "disk"
            else MemoryStore(identity, compute.device)
        )
    except ResourceError as error:
        log.warning("%s. Training continues without a memo", error)
        return None
    return Memo(store, data.num_views)


def _identify_memo(
    cfg: DictConfig, teacher_digest: str, data: DataModule, num_views: int, compute: Compute
) -> MemoIdentity:
    dataset = stable_config(cfg)["dataset"]
    return MemoIdentity(
        teacher_digest=teacher_digest,
        dataset_digest=data.digest,
        num_samples=count_samples(data),
        num_views=num_views,
        num_classes=data.num_classes,
        preprocessing={key: dataset[key] for key in PREPROCESSING},
        precision=compute.precision,
        layout=compute.layout,
        device_type=compute.device.type,
    )


def prepare_run(
    cfg: DictConfig,
    folder: Path,
    key: str,
    teacher: Teacher | None,
    data: DataModule,
    compute: Compute,
) -> Run:
    """A learner and its journal, resumed from the latest checkpoint if there is one."""
    learner = build_learner(cfg, compute, teacher.original if teacher else None, data)
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


def build_learner(
    cfg: DictConfig,
    compute: Compute,
    teacher: nn.Module | None = None,
    data: DataModule | None = None,
) -> Learner:
    """A new learner, initialized from its own seed only.

    Args:
        cfg: of the run.
        compute: device, precision and memory format.
        teacher: for the shapes of its features; None if no loss needs them.
        data: for the size of the train split; None if no loss needs it.
    """
    random = RandomState(derive_seed(cfg.seed, "learner"), compute.device)
    with random.turn():
        student = build(cfg.student)  # first, so that the seed alone determines the weights
        objective, plugin = build_objective(cfg), build(cfg.plugin)
        if teacher is not None and data is not None:
            adapt(objective, teacher, student, data)
    require_registered(plugin)
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


def adapt(objective: Objective, teacher: nn.Module, student: nn.Module, data: DataModule) -> None:
    """Lets losses build modules that depend on feature shapes; a no-op if none does.

    Raises:
        ConfigError: a network does not provide the required features.
    """
    labels = torch.empty(2, dtype=torch.long, device="meta")
    if objective.needs & FEATURES:
        preacts = "preacts" in objective.needs
        first, second = (example_output(n, data.image_shape, preacts) for n in (teacher, student))
        outputs = Outputs(first, second, labels, labels)
    else:
        logits = torch.empty(2, data.num_classes, device="meta")
        outputs = Outputs.from_logits(logits, logits, labels, labels)
    if objective.waits_for_shapes:
        objective.adapt(outputs, count_samples(data))


def count_samples(data: DataModule) -> int:
    """N, size of the full train split, regardless of the protocol."""
    return data.num_train + data.eval_sizes.get("val", 0)
