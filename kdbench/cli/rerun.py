"""``kdbench-rerun``: repeats a run from its record, and compares the results."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.config.build import build
from kdbench.config.choices import read_option
from kdbench.config.compose import save_config
from kdbench.config.identity import initial_weights_digest, run_key, teacher_file
from kdbench.config.recall import open_run, recall_config
from kdbench.config.stage import AUTO
from kdbench.errors import CheckpointError, ConfigError, DataError, ExitCode
from kdbench.records.collect import RunFolder
from kdbench.records.log import run_log
from kdbench.records.record import FILE, RunRecord, read_record
from kdbench.records.repetition import DIFFERENT, compare_runs, mark_repetition

log = logging.getLogger("kdbench")

_EXAMPLES = """examples:
  kdbench-rerun outputs/runs/mnist5k/resnet20_resnet8/kd-constant/seed0-1131dbf766
  kdbench-rerun RUN paths.data=DIR teacher.weights=FILE run.device=cpu --out /tmp/again
"""


def rerun(options: argparse.Namespace) -> int:
    """Repeats the run, prints the comparison and returns the exit code.

    A different result is not an error, but has an exit code of its own for scripts.
    """
    if options.tolerance is not None and not options.tolerance >= 0:
        raise ConfigError(f"--tolerance={options.tolerance:g} must be >= 0 percentage points")
    run = open_run(options.run)
    _require_done(run)
    cfg = _prepare(run, options.overrides)
    folder = options.out or Path(cfg.paths.outputs) / "reruns" / run.folder.resolve().name
    if folder.resolve() == run.folder.resolve():
        raise ConfigError(f"--out={folder} is the folder of the run itself; choose another one")
    _require_same_data(run.record, cfg)
    _require_same_teacher(run.record, cfg)
    _require_same_start(run.record, cfg)
    record = _train(run, cfg, folder)
    found = compare_runs(run, RunFolder(folder, record), options.tolerance)
    found.write(folder)
    print(f"{run.folder} repeated in {folder}")
    print(found.describe())
    return ExitCode.DIFFERENT if found.verdict == DIFFERENT else 0


def _require_done(run: RunFolder) -> None:
    if run.record.status != "done":
        raise ConfigError(
            f"{run.folder} failed ({run.record.reason}), so there is no result to compare with; "
            f"resume it with kdbench-train"
        )


def _prepare(run: RunFolder, overrides: Sequence[str]) -> DictConfig:
    """The config of the repetition: the same device and threads, unless overridden; no tracker."""
    from kdbench.config.check import check

    record = run.record
    settings = [f"run.device={record.device}", f"run.threads={record.threads}"]
    cfg = recall_config(run, [*settings, *overrides])
    cfg.tracker = OmegaConf.create(read_option("tracker", "csv"))
    check(cfg)
    return cfg


def _require_same_data(record: RunRecord, cfg: DictConfig) -> None:
    digest = build(cfg.dataset).source(Path(cfg.paths.cache)).digest
    if digest != record.dataset_digest:
        raise DataError(
            f"{cfg.dataset.name} in paths.data={cfg.paths.data} is not the dataset of the run: its "
            f"digest is {digest}, the record has {record.dataset_digest}; pass the folder with "
            f"the same files as paths.data=DIR"
        )


def _require_same_teacher(record: RunRecord, cfg: DictConfig) -> None:
    """Checks that a teacher from a file is the teacher of the run.

    A teacher that is trained here is retrained if it is missing. It may then differ in its last
    bits like everything else, which the comparison reports.
    """
    if record.teacher_digest is None or cfg.teacher.weights == AUTO:
        return
    from kdbench.engine.assemble import load_teacher
    from kdbench.model.compute import choose_compute

    file = teacher_file(cfg)
    compute = choose_compute("cpu", "fp32", channels_last=False)  # only the digest matters
    digest = load_teacher(cfg, file, compute)[0].digest
    if digest != record.teacher_digest:
        raise CheckpointError(
            f"{file} is not the teacher of the run: its weights have the digest {digest}, the "
            f"record has {record.teacher_digest}; pass the right file as teacher.weights=FILE"
        )


def _require_same_start(record: RunRecord, cfg: DictConfig) -> None:
    """Checks that a student initialized from a file starts from the same file."""
    if record.initial_digest is None:
        return
    digest = initial_weights_digest(cfg)
    if digest != record.initial_digest:
        raise CheckpointError(
            f"{cfg.student.get('weights')} is not the file that initialized the run's student: "
            f"its digest is {digest}, the record has {record.initial_digest}; pass the right file "
            f"as student.weights=FILE"
        )


def _train(run: RunFolder, cfg: DictConfig, folder: Path) -> RunRecord:
    """Trains or resumes the repetition, or returns the finished one."""
    from kdbench.engine.run import train_job

    key = run_key(cfg)
    _require_free(folder, key)
    if not (folder / ".hydra").exists():
        mark_repetition(folder, run.folder)
        save_config(cfg, folder)
    with run_log(folder, key):
        return train_job(cfg, folder)


def _require_free(folder: Path, key: str) -> None:
    if not (folder / FILE).exists():
        return
    found = read_record(folder).run_key
    if found != key:
        raise ConfigError(
            f"{folder} holds another run ({found[:10]}, this one is {key[:10]}); choose another "
            f"folder with --out"
        )
    log.info("%s already holds a repetition; --out FOLDER repeats the run again", folder)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kdbench-rerun",
        description="Repeat a run from its record in another folder, and report whether the result "
        "is bit-identical, within tolerance or different, and what changed in its environment.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="paths and execution settings, such as paths.data=DIR teacher.weights=FILE "
        "run.device=cpu run.threads=2; default: those of the run",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: <paths.outputs>/reruns/<run>"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="largest difference in top-1, in percentage points; default: the standard error of "
        "the difference of two accuracies on a test set of this size",
    )
    return parser.parse_intermixed_args(arguments)


def main() -> None:
    """Entry point of ``kdbench-rerun``."""
    options = _parse(sys.argv[1:])
    log_to_terminal()
    run_command(lambda: rerun(options))


if __name__ == "__main__":
    main()
