"""Evaluates the network of a run or of a weight file, beside its teacher, and exports it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from kdbench.config.build import build
from kdbench.config.identity import resolve_config, teacher_file
from kdbench.config.overrides import compose_checked
from kdbench.config.recall import open_run, recall_config
from kdbench.data.base import DataModule
from kdbench.digest import file_digest
from kdbench.engine.journal import BEST_WEIGHTS
from kdbench.engine.metrics import evaluate_logits
from kdbench.errors import CheckpointError, ConfigError, KdbenchError
from kdbench.evaluation.card import ONNX, SAFETENSORS, collect_facts, write_card
from kdbench.evaluation.export import export_onnx, export_safetensors
from kdbench.evaluation.trained import TrainedNetwork, WeightFile, count_confusions, load_trained
from kdbench.files import refuse_links
from kdbench.model.checkpoint import Role
from kdbench.model.compute import Compute, configure_compute, set_threads
from kdbench.records.collect import RunFolder
from kdbench.records.environment import describe_environment
from kdbench.records.evaluation import Evaluation
from kdbench.records.record import WEIGHTS
from kdbench.teacher.answers import ask_split
from kdbench.teacher.teacher import Teacher
from kdbench.tracker.redact import redact

CHECKED_IMAGES = 256  # at most, of the split, that an ONNX file is tried on


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which network is to be evaluated, and on what.

    Attributes:
        network: folder of a run, or a weight file.
        overrides: of the config, as for ``kdbench-train``.
        which: "last" or "best" epoch of a run; None: the last.
        split: "test", "val" or "train".
        arch: name of the network of a weight file; None: the file says it.
        role: "student" or "teacher" of a file that holds a whole distillation; None: the student.
        teacher: weight file or folder of a run to compare with; None: the teacher of the run.
        teacher_arch: name of its network.
        export: any of "safetensors" and "onnx".
        out: folder of the results; None: in the folder of the run, or below ``paths.outputs``.
    """

    network: Path
    overrides: Sequence[str] = ()
    which: str | None = None
    split: str = "test"
    arch: str | None = None
    role: Role | None = None
    teacher: Path | None = None
    teacher_arch: str | None = None
    export: Sequence[str] = ()
    out: Path | None = None

    @property
    def names_dataset(self) -> bool:
        """Whether another dataset than that of the run is asked for."""
        return any(override.startswith("dataset=") for override in self.overrides)


@dataclass(frozen=True)
class EvaluationSetup:
    """On what a network is evaluated, and how.

    Attributes:
        request: what is to be evaluated.
        run: whose network it is; None for a weight file.
        cfg: its dataset, paths and ``run`` count.
        compute: device and precision.
        data: the dataset.
    """

    request: Request
    run: RunFolder | None
    cfg: DictConfig
    compute: Compute
    data: DataModule

    @property
    def which(self) -> str:
        """Whose weights of a run: those of the "last" or of the "best" epoch."""
        return self.request.which or "last"


@dataclass(frozen=True)
class Evaluated:
    """A network that has been evaluated.

    Attributes:
        evaluation: what was found, as it is written to the folder.
        folder: of the results.
        trained: the network.
        setup: on what it was evaluated.
    """

    evaluation: Evaluation
    folder: Path
    trained: TrainedNetwork
    setup: EvaluationSetup


def evaluate(request: Request) -> Evaluated:
    """Evaluates a network and writes what was found.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        ConfigError: the request names no dataset, or one that does not exist.
        DataError: the dataset is not where the config says.
    """
    setup = _prepare(request)
    trained = load_trained(_choose_weights(setup), setup.data, setup.compute)
    evaluation = _measure(setup, trained)
    folder = request.out or _choose_folder(setup, trained)
    if setup.run is not None and request.out is None:
        refuse_links(setup.run.folder, folder, folder / "export")
    evaluation.write(folder)
    return Evaluated(evaluation, folder, trained, setup)


def export(evaluated: Evaluated) -> Iterator[tuple[Path, str]]:
    """Writes the formats asked for and a model card; yields each file and how it was checked.

    Raises:
        CheckpointError: a written file does not hold or compute what the network does.
        ConfigError: a format is not possible for this network, or its packages are missing.
    """
    setup, trained, formats = (
        evaluated.setup,
        evaluated.trained,
        evaluated.setup.request.export,
    )
    folder = evaluated.folder / "export"
    facts = collect_facts(evaluated.evaluation, setup.run, trained.model, setup.cfg.dataset)
    files = {}
    if "safetensors" in formats:
        export_safetensors(trained.network, folder / SAFETENSORS, facts)
        files[SAFETENSORS] = "weights, read again and found the same"
    if "onnx" in formats:
        images = next(setup.data.eval_batches(setup.request.split)).images[:CHECKED_IMAGES]
        files[ONNX] = str(export_onnx(trained.network, folder / ONNX, facts, images))
    write_card(folder / "README.md", facts, trained.model, files)
    yield from ((folder / name, check) for name, check in files.items())


def _prepare(request: Request) -> EvaluationSetup:
    run = open_run(request.network) if request.network.is_dir() else None
    cfg = _choose_config(run, request)
    set_threads(cfg.run.threads)
    compute = configure_compute(cfg, precision=run.record.precision if run else None)
    data = build(cfg.dataset).open(
        cache=Path(cfg.paths.cache),
        device=compute.device,
        data_seed=0,  # nothing is drawn
        protocol="strict" if request.split == "val" else cfg.run.protocol,
    )
    return EvaluationSetup(request, run, cfg, compute, data)


def _choose_config(run: RunFolder | None, request: Request) -> DictConfig:
    """The run's own, with its number of threads; or a new one where a dataset is named."""
    if request.names_dataset:
        return compose_checked(request.overrides)
    if run is None:
        raise ConfigError(
            "a weight file does not say on what it is to be evaluated; name the dataset as for "
            "kdbench-train, such as dataset=cifar100 paths.data=DIR"
        )
    return recall_config(run, [f"run.threads={run.record.threads}", *request.overrides])


def _choose_weights(setup: EvaluationSetup) -> WeightFile:
    request, run = setup.request, setup.run
    if run is None:
        return WeightFile(request.network, request.role or "student", arch=request.arch)
    record, model = run.record, run.record.config["student"]
    if setup.which == "best":
        path = run.folder / "checkpoint" / BEST_WEIGHTS
        _require_best(path, record.best_digest)
        return WeightFile(path, model=model)
    if record.status != "done":
        raise CheckpointError(
            f"{run.folder} has no final weights, it failed: {record.reason}; choose another run, "
            f"or --which best"
        )
    return WeightFile(run.folder / WEIGHTS, model=model, digest=record.weights_digest)


def _require_best(path: Path, digest: str | None) -> None:
    if digest is not None and path.is_file() and file_digest(path) != digest:
        raise CheckpointError(
            f"{path} is not what its run wrote: it should have the digest {digest}, found "
            f"{file_digest(path)}; put the right file back, or choose --which last"
        )


def _measure(setup: EvaluationSetup, trained: TrainedNetwork) -> Evaluation:
    request, data, compute = setup.request, setup.data, setup.compute
    teacher, teacher_missing = _find_teacher(setup)
    with torch.no_grad():  # as a learner evaluates its student
        network = partial(compute.forward, compute.fuse(trained.network))
        logits, targets = ask_split(network, data, request.split)
    answers, teacher_facts = None, None
    if teacher is not None:
        frozen = Teacher(teacher.network, compute, teacher.digest)
        answers = frozen.split_logits(data, request.split)[0]
        top1 = evaluate_logits(answers, targets, None)["top1"]
        teacher_facts = {**teacher.identity(), "top1": top1}
    return Evaluation(
        network={**trained.identity(), "selection": _selection(setup)},
        teacher=teacher_facts,
        teacher_missing=teacher_missing,
        dataset={
            "name": setup.cfg.dataset.name,
            "digest": data.digest,
            "split": request.split,
            "samples": len(targets),
            "trained_on": _is_trained_on(setup),
        },
        metrics=evaluate_logits(logits, targets, answers),
        recorded=_recorded(setup),
        class_names=data.class_names,
        confusion=count_confusions(logits, targets),
        circumstances={
            "precision": compute.precision,
            "device": str(compute.device),
            "threads": torch.get_num_threads(),
            "command": redact(sys.argv),
            "environment": describe_environment(),
        },
    )


def _find_teacher(setup: EvaluationSetup) -> tuple[TrainedNetwork | None, str | None]:
    """The teacher to compare with; or None, and why where there should be one."""
    run, data, compute = setup.run, setup.data, setup.compute
    if setup.request.teacher is not None:
        return load_trained(_given_teacher(setup, setup.request.teacher), data, compute), None
    if run is None or run.record.teacher_digest is None:
        return None, None
    try:
        return load_trained(_own_teacher(setup, run), data, compute), None
    except KdbenchError as error:  # no reason to know less of the student
        return None, f"{error} (or --teacher FILE|RUN)"


def _given_teacher(setup: EvaluationSetup, place: Path) -> WeightFile:
    run = setup.run
    if place.is_dir():
        record = open_run(place).record
        model, digest = record.config["student"], record.weights_digest
        return WeightFile(place / WEIGHTS, model=model, digest=digest)
    arch = setup.request.teacher_arch or (run.record.teacher if run else None)
    return WeightFile(place, "teacher", arch=arch)


def _own_teacher(setup: EvaluationSetup, run: RunFolder) -> WeightFile:
    cfg = recall_config(run) if setup.request.names_dataset else setup.cfg
    plain = resolve_config(cfg)
    model = plain["teacher"]["model"]
    return WeightFile(teacher_file(plain), "teacher", model, digest=run.record.teacher_digest)


def _selection(setup: EvaluationSetup) -> str:
    """Which of all the weights that a training has these are, in words."""
    if setup.run is None:
        return "file as it was given"
    if setup.which == "last":
        return "last epoch"
    on = "test set" if setup.run.record.protocol == "paper" else "validation split"
    return f"best epoch, picked on the {on}"


def _is_trained_on(setup: EvaluationSetup) -> bool | None:
    """Whether the network has learnt from these images; None where nobody knows."""
    run, split = setup.run, setup.request.split
    if run is None:
        return None
    learnt = ("train",) if run.record.protocol == "strict" else ("train", "val")
    return split in learnt and setup.data.digest == run.record.dataset_digest


def _recorded(setup: EvaluationSetup) -> dict[str, float] | None:
    """What the record says of these weights on this split; None where it says nothing."""
    request, run = setup.request, setup.run
    if run is None or setup.data.digest != run.record.dataset_digest:
        return None
    record, which = run.record, (setup.which, request.split)
    if which == ("last", "test"):
        return record.test
    top1 = {
        ("last", "val"): record.val_top1_last,
        ("best", "val"): record.val_top1_best,
        ("best", "test"): record.top1_best,
    }.get(which)
    return None if top1 is None else {"top1": top1}


def _choose_folder(setup: EvaluationSetup, trained: TrainedNetwork) -> Path:
    request, what = setup.request, f"{setup.cfg.dataset.name}-{setup.request.split}"
    if setup.run is not None:
        return setup.run.folder / "evaluation" / f"{setup.which}-{what}"
    name = f"{request.network.stem}-{trained.digest[:10]}"
    return Path(setup.cfg.paths.outputs) / "evaluations" / name / what
