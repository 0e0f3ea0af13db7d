"""``kdbench-evaluate``: how good a network is, at what; and its files for other programs."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from kdbench.command import run_command
from kdbench.config.build import build
from kdbench.config.identity import resolve_config, teacher_job
from kdbench.digest import file_digest
from kdbench.errors import CheckpointError, ConfigError, KdbenchError
from kdbench.files import refuse_links
from kdbench.results.card import ONNX, SAFETENSORS, collect_facts, write_card
from kdbench.results.collect import RunFolder
from kdbench.results.environment import describe_environment
from kdbench.results.evaluation import Evaluation
from kdbench.results.recall import open_run, recall_config
from kdbench.results.record import WEIGHTS
from kdbench.tracker.redact import redact

if TYPE_CHECKING:
    from kdbench.data.base import DataModule
    from kdbench.engine.device import Compute
    from kdbench.engine.evaluation import Trained, WeightFile

CHECKED_IMAGES = 256  # at most, of the split, that an ONNX file is tried on

_EXAMPLES = """examples:
  kdbench-evaluate outputs/runs/mnist5k/resnet20_resnet8/kd-constant/seed0-1131dbf766
  kdbench-evaluate RUN --which best --split train --export safetensors onnx
  kdbench-evaluate teacher.pth --arch resnet56 dataset=cifar100 paths.data=DIR
"""


@dataclass(frozen=True)
class Setting:
    """On what a network is evaluated, and how.

    Attributes:
        options: of the command line.
        run: whose network it is; None for a weight file.
        cfg: its dataset, paths and ``run`` count.
        compute: device and precision.
        data: the dataset.
    """

    options: argparse.Namespace
    run: RunFolder | None
    cfg: DictConfig
    compute: "Compute"
    data: "DataModule"

    @property
    def which(self) -> str:
        """Whose weights of a run: those of the "last" or of the "best" epoch."""
        return self.options.which or "last"


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates, prints and writes; returns the exit code."""
    from kdbench.engine.evaluation import load_trained
    from kdbench.model.export import require_onnx

    _refuse(options)
    if "onnx" in options.export:
        require_onnx()
    setting = _prepare(options)
    trained = load_trained(_choose_weights(setting), setting.data, setting.compute)
    evaluation = _measure(setting, trained)
    folder = options.out or _choose_folder(setting, trained)
    if setting.run is not None and options.out is None:
        refuse_links(setting.run.folder, folder, folder / "export")
    evaluation.write(folder)
    print(evaluation.describe())
    print(f"\nwritten: {folder}")
    if options.export:
        _export(setting, trained, evaluation, folder / "export")
    return 0


def _refuse(options: argparse.Namespace) -> None:
    """Options that would have no effect, and a path that leads nowhere."""
    if not options.network.exists():
        raise CheckpointError(
            f"{options.network}: nothing is there; give the folder of a run, or a weight file"
        )
    is_run = options.network.is_dir()
    of_other = ["arch", "role"] if is_run else ["which"]
    useless = [f"--{name}" for name in of_other if getattr(options, name) is not None]
    if useless:
        what = "weight files, a run says it" if is_run else "folders of runs"
        raise ConfigError(f"{', '.join(useless)}: only for {what}; leave it out")
    if is_run and options.export and _names_dataset(options.overrides):
        raise ConfigError(
            "--export describes a run by the dataset that it was trained on; leave dataset= out"
        )


def _prepare(options: argparse.Namespace) -> Setting:
    from kdbench.engine.device import configure_compute, set_threads

    run = open_run(options.network) if options.network.is_dir() else None
    cfg = _choose_config(run, options.overrides)
    set_threads(cfg.run.threads)
    compute = configure_compute(cfg, precision=run.record.precision if run else None)
    data = build(cfg.dataset).open(
        cache=Path(cfg.paths.cache),
        device=compute.device,
        data_seed=0,  # nothing is drawn
        protocol="strict" if options.split == "val" else cfg.run.protocol,
    )
    return Setting(options, run, cfg, compute, data)


def _choose_config(run: RunFolder | None, overrides: Sequence[str]) -> DictConfig:
    """The run's own, with its number of threads; or a new one where a dataset is named."""
    if _names_dataset(overrides):
        from kdbench.config.overrides import compose_checked

        return compose_checked(overrides)
    if run is None:
        raise ConfigError(
            "a weight file does not say on what it is to be evaluated; name the dataset as for "
            "kdbench-train, such as dataset=cifar100 paths.data=DIR"
        )
    return recall_config(run, [f"run.threads={run.record.threads}", *overrides])


def _names_dataset(overrides: Sequence[str]) -> bool:
    return any(override.startswith("dataset=") for override in overrides)


def _choose_weights(setting: Setting) -> "WeightFile":
    from kdbench.engine.evaluation import WeightFile
    from kdbench.engine.journal import BEST_WEIGHTS

    options, run = setting.options, setting.run
    if run is None:
        return WeightFile(options.network, options.role or "student", arch=options.arch)
    record, model = run.record, run.record.config["student"]
    if setting.which == "best":
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


def _measure(setting: Setting, trained: "Trained") -> Evaluation:
    import torch

    from kdbench.engine.answers import ask_split
    from kdbench.engine.evaluation import count_confusions
    from kdbench.engine.metrics import evaluate_logits
    from kdbench.engine.teacher import Teacher

    options, data, compute = setting.options, setting.data, setting.compute
    teacher, teacher_missing = _find_teacher(setting)
    with torch.no_grad():  # as a learner evaluates its student
        network = partial(compute.forward, compute.fuse(trained.network))
        logits, targets = ask_split(network, data, options.split)
    answers, teacher_facts = None, None
    if teacher is not None:
        frozen = Teacher(teacher.network, compute, teacher.digest)
        answers = frozen.split_logits(data, options.split)[0]
        top1 = evaluate_logits(answers, targets, None)["top1"]
        teacher_facts = {**teacher.identity(), "top1": top1}
    return Evaluation(
        network={**trained.identity(), "selection": _selection(setting)},
        teacher=teacher_facts,
        teacher_missing=teacher_missing,
        dataset={
            "name": setting.cfg.dataset.name,
            "digest": data.digest,
            "split": options.split,
            "samples": len(targets),
            "trained_on": _is_trained_on(setting),
        },
        metrics=evaluate_logits(logits, targets, answers),
        recorded=_recorded(setting),
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


def _find_teacher(setting: Setting) -> "tuple[Trained | None, str | None]":
    """The teacher to compare with; or None, and why where there should be one."""
    from kdbench.engine.evaluation import load_trained

    run, data, compute = setting.run, setting.data, setting.compute
    if setting.options.teacher is not None:
        return load_trained(_given_teacher(setting), data, compute), None
    if run is None or run.record.teacher_digest is None:
        return None, None
    try:
        return load_trained(_own_teacher(setting, run), data, compute), None
    except KdbenchError as error:  # no reason to know less of the student
        return None, f"{error} (or --teacher FILE|RUN)"


def _given_teacher(setting: Setting) -> "WeightFile":
    from kdbench.engine.evaluation import WeightFile

    place, run = setting.options.teacher, setting.run
    if place.is_dir():
        record = open_run(place).record
        model, digest = record.config["student"], record.weights_digest
        return WeightFile(place / WEIGHTS, model=model, digest=digest)
    arch = setting.options.teacher_arch or (run.record.teacher if run else None)
    return WeightFile(place, "teacher", arch=arch)


def _own_teacher(setting: Setting, run: RunFolder) -> "WeightFile":
    from kdbench.engine.evaluation import WeightFile

    cfg = recall_config(run) if _names_dataset(setting.options.overrides) else setting.cfg
    file = Path(cfg.teacher.weights)
    if cfg.teacher.weights == "auto":
        file = teacher_job(cfg)[1] / WEIGHTS
    model = resolve_config(cfg)["teacher"]["model"]
    return WeightFile(file, "teacher", model, digest=run.record.teacher_digest)


def _selection(setting: Setting) -> str:
    """Which of all the weights that a training has these are, in words."""
    if setting.run is None:
        return "file as it was given"
    if setting.which == "last":
        return "last epoch"
    on = "test set" if setting.run.record.protocol == "paper" else "validation split"
    return f"best epoch, picked on the {on}"


def _is_trained_on(setting: Setting) -> bool | None:
    """Whether the network has learnt from these images; None where nobody knows."""
    run, split = setting.run, setting.options.split
    if run is None:
        return None
    learnt = ("train",) if run.record.protocol == "strict" else ("train", "val")
    return split in learnt and setting.data.digest == run.record.dataset_digest


def _recorded(setting: Setting) -> dict[str, float] | None:
    """What the record says of these weights on this split; None where it says nothing."""
    options, run = setting.options, setting.run
    if run is None or setting.data.digest != run.record.dataset_digest:
        return None
    record, which = run.record, (setting.which, options.split)
    if which == ("last", "test"):
        return record.test
    top1 = {
        ("last", "val"): record.val_top1_last,
        ("best", "val"): record.val_top1_best,
        ("best", "test"): record.top1_best,
    }.get(which)
    return None if top1 is None else {"top1": top1}


def _choose_folder(setting: Setting, trained: "Trained") -> Path:
    options, what = setting.options, f"{setting.cfg.dataset.name}-{setting.options.split}"
    if setting.run is not None:
        return setting.run.folder / "evaluation" / f"{setting.which}-{what}"
    name = f"{options.network.stem}-{trained.digest[:10]}"
    return Path(setting.cfg.paths.outputs) / "evaluations" / name / what


def _export(setting: Setting, trained: "Trained", evaluation: Evaluation, folder: Path) -> None:
    from kdbench.model.export import export_onnx, export_safetensors

    facts = collect_facts(evaluation, setting.run, trained.model, setting.cfg.dataset)
    files = {}
    if "safetensors" in setting.options.export:
        export_safetensors(trained.network, folder / SAFETENSORS, facts)
        files[SAFETENSORS] = "weights, read again and found the same"
    if "onnx" in setting.options.export:
        images = next(setting.data.eval_batches(setting.options.split)).images[:CHECKED_IMAGES]
        files[ONNX] = str(export_onnx(trained.network, folder / ONNX, facts, images))
    write_card(folder / "README.md", facts, trained.model, files)
    for name, check in files.items():
        print(f"exported: {folder / name} ({check})")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kdbench-evaluate",
        description="Evaluates a trained network: accuracy, NLL, calibration, agreement with its "
        "teacher, accuracy of each class, confusions; and exports it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", type=Path, help="folder of a run, or a weight file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for kdbench-train: dataset=NAME evaluates on another dataset; without it, where "
        "the run's data is and how to compute, such as paths.data=DIR run.device=cpu",
    )
    parser.add_argument(
        "--which", choices=("last", "best"), help="epoch of a run whose weights are taken (last)"
    )
    parser.add_argument(
        "--split",
        choices=("test", "val", "train"),
        default="test",
        help="val: what run.protocol=strict holds out; train: without augmentation (test)",
    )
    parser.add_argument("--arch", help="name of the network, for a file that does not say it")
    parser.add_argument(
        "--role",
        choices=("student", "teacher"),
        help="network to take from a file that holds a whole distillation (student)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE|RUN",
        help="network to compare with; default: the teacher of the run, where it is found",
    )
    parser.add_argument("--teacher-arch", help="as --arch, for --teacher")
    parser.add_argument(
        "--export",
        nargs="+",
        choices=("safetensors", "onnx"),
        default=(),
        help="writes the network and a model card below the results",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of the results; default: in the run's folder"
    )
    return parser.parse_intermixed_args(arguments)


def main() -> None:
    """Entry point of ``kdbench-evaluate``."""
    options = _parse(sys.argv[1:])
    run_command(lambda: evaluate(options))


if __name__ == "__main__":
    main()
