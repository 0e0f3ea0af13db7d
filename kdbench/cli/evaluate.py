"""``kdbench-evaluate``: evaluates a trained network, and exports it for other programs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdbench.cli.command import log_to_terminal, run_command
from kdbench.errors import CheckpointError, ConfigError

_EXAMPLES = """examples:
  kdbench-evaluate outputs/runs/mnist5k/resnet20_resnet8/kd-constant/seed0-1131dbf766
  kdbench-evaluate RUN --which best --split train --export safetensors onnx
  kdbench-evaluate teacher.pth --arch resnet56 dataset=cifar100 paths.data=DIR
"""


def evaluate(options: argparse.Namespace) -> int:
    """Evaluates, prints and writes; returns the exit code."""
    # Imported here so that --help and usage errors do not wait for torch.
    from kdbench.evaluation import evaluate as evaluation
    from kdbench.evaluation.export import require_onnx

    request = evaluation.Request(**vars(options))
    _refuse(options, request.names_dataset)
    if "onnx" in request.export:
        require_onnx()
    evaluated = evaluation.evaluate(request)
    print(evaluated.evaluation.describe())
    print(f"\nwritten: {evaluated.folder}")
    if request.export:
        for path, check in evaluation.export(evaluated):
            print(f"exported: {path} ({check})")
    return 0


def _refuse(options: argparse.Namespace, names_dataset: bool) -> None:
    """Rejects options that would have no effect, and a path that does not exist."""
    if not options.network.exists():
        raise CheckpointError(
            f"{options.network} does not exist; give the folder of a run, or a weight file"
        )
    is_run = options.network.is_dir()
    of_other = ["arch", "role"] if is_run else ["which"]
    useless = [f"--{name}" for name in of_other if getattr(options, name) is not None]
    if useless:
        what = "weight files, a run records it" if is_run else "folders of runs"
        raise ConfigError(f"{', '.join(useless)}: only for {what}; omit it")
    if is_run and options.export and names_dataset:
        raise ConfigError(
            "--export describes a run by the dataset that it was trained on; omit dataset="
        )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kdbench-evaluate",
        description="Evaluate a trained network (accuracy, NLL, calibration, agreement with its "
        "teacher, per-class accuracy, confusions), and export it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", type=Path, help="folder of a run, or a weight file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for kdbench-train: dataset=NAME evaluates on another dataset; otherwise paths and "
        "execution settings, such as paths.data=DIR run.device=cpu",
    )
    parser.add_argument(
        "--which", choices=("last", "best"), help="epoch of the run whose weights to use (last)"
    )
    parser.add_argument(
        "--split",
        choices=("test", "val", "train"),
        default="test",
        help="val: the split held out by run.protocol=strict; train: without augmentation (test)",
    )
    parser.add_argument("--arch", help="network name, for a weight file that does not record it")
    parser.add_argument(
        "--role",
        choices=("student", "teacher"),
        help="network to load from a file that holds both (student)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE|RUN",
        help="network to compare with; default: the teacher of the run, if it is found",
    )
    parser.add_argument("--teacher-arch", help="as --arch, for --teacher")
    parser.add_argument(
        "--export",
        nargs="+",
        choices=("safetensors", "onnx"),
        default=(),
        help="write the network and a model card below the results",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the results; default: in the run's folder"
    )
    return parser.parse_intermixed_args(arguments)


def main() -> None:
    """Entry point of ``kdbench-evaluate``."""
    options = _parse(sys.argv[1:])
    log_to_terminal()
    run_command(lambda: evaluate(options))


if __name__ == "__main__":
    main()
