"""Evaluates the network of a run or weight file, compares it with its teacher, and exports it."""

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
from kdbench.teacher.logit_cache import compute_split_logits
from kdbench.teacher.teacher import Teacher
from kdbench.tracker.redact import redact

CHECKED_IMAGES = 256  # at most, to check an ONNX file on


@dataclass(frozen=True, kw_only=True)
class Request:
    """The network to evaluate, and how.

    Attributes:
        network: folder of a run, or a weight file.
        overrides: of the config, as for ``kdbench-train``.
        which: "last" or "best" epoch of a run; None for the last.
        split: "test", "val" or "train".
        arch: name of the network of a weight file; None to read it from the file.
        role: "student" or "teacher", for a file with both; None for the student.
        teacher: weight file or run folder to compare with; None for the teacher of the run.
        teacher_arch: name of its network.
        export: any of "safetensors" and "onnx".
        out: folder of the results; None for one in the run folder, or below ``paths.outputs``.
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
        """Whether a dataset is given, possibly another than that of the run."""
        return any(override.startswith("dataset=") for override in self.overrides)


@dataclass(frozen=True)
class EvaluationSetup:
    """Everything needed to evaluate a network.

    Attributes:
        request: of the user.
        run: the run of the network; None for a weight file.
        cfg: only its dataset, paths and ``run`` are used.
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
        """Which weights of a run: of the "last" or the "best" epoch."""
        return self.request.which or "last"


@dataclass(frozen=True)
class Evaluated:
    """A network that has been evaluated.

    Attributes:
        evaluation: the results, as written to the folder.
        folder: of the results.
        trained: the network.
        setup: of the evaluation.
    """

    evaluation: Evaluation
    folder: Path
    trained: TrainedNetwork
    setup: EvaluationSetup


def evaluate(request: Request) -> Evaluated:
    """Evaluates a network and writes the results.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        ConfigError: no dataset is given, or an unknown one.
        DataError: the dataset is missing.
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
    """Writes the requested formats and a model card; yields each file and how it was checked.

    Raises:
        CheckpointError: a written file does not reproduce the weights or outputs of the network.
        ConfigError: the network does not support a format, or packages are missing.
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
        files[SAFETENSORS] = "weights, verified by reading them back"
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
    """The config of the run, with its number of threads; a new one if a dataset is given."""
    if request.names_dataset:
        return compose_checked(request.overrides)
    if run is None:
        raise ConfigError(
            "a weight file needs a dataset to be evaluated on; give it as for kdbench-train, such "
            "as dataset=cifar100 paths.data=DIR"
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
            f"{run.folder} has no final weights, because the run failed: {record.reason}; choose "
            f"another run, or --which best"
        )
    return WeightFile(run.folder / WEIGHTS, model=model, digest=record.weights_digest)


def _require_best(path: Path, digest: str | None) -> None:
    if digest is not None and path.is_file() and file_digest(path) != digest:
        raise CheckpointError(
            f"{path} was changed after the run: it should have the digest {digest}, found "
            f"{file_digest(path)}; restore the file, or choose --which last"
        )


def _measure(setup: EvaluationSetup, trained: TrainedNetwork) -> Evaluation:
    request, data, compute = setup.request, setup.data, setup.compute
    teacher, teacher_missing = _find_teacher(setup)
    with torch.no_grad():  # the same computation as in training
        network = partial(compute.forward, compute.fuse(trained.network))
        logits, targets = compute_split_logits(network, data, request.split)
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
    """The teacher to compare with; or None, and the reason if there should be one."""
    run, data, compute = setup.run, setup.data, setup.compute
    if setup.request.teacher is not None:
        return load_trained(_given_teacher(setup, setup.request.teacher), data, compute), None
    if run is None or run.record.teacher_digest is None:
        return None, None
    try:
        return load_trained(_own_teacher(setup, run), data, compute), None
    except KdbenchError as error:  # evaluate the student all the same
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
    """Which weights of the training these are, in words."""
    if setup.run is None:
        return "given file"
    if setup.which == "last":
        return "last epoch"
    on = "test set" if setup.run.record.protocol == "paper" else "validation split"
    return f"best epoch, picked on the {on}"


def _is_trained_on(setup: EvaluationSetup) -> bool | None:
    """Whether the network was trained on these images; None if unknown."""
    run, split = setup.run, setup.request.split
    if run is None:
        return None
    trained_on = ("train",) if run.record.protocol == "strict" else ("train", "val")
    return split in trained_on and setup.data.digest == run.record.dataset_digest


def _recorded(setup: EvaluationSetup) -> dict[str, float] | None:
    """Metrics of these weights on this split in the record; None if it has none."""
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
