"""Shared parts of the benchmarks: options, runs to compare, a stopwatch, a table."""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from kdbench.columns import write_markdown_table
from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.config.overrides import check_overrides
from kdbench.data.base import Batch, DataModule
from kdbench.engine.assemble import load_teacher, open_data, open_memo, prepare_run
from kdbench.engine.seed import RandomState
from kdbench.engine.trainer import Trainer
from kdbench.model.compute import Compute, configure_compute, cpu_model, set_threads
from kdbench.progress import Progress
from kdbench.teacher.teacher import Teacher
from kdbench.tracker.display import Display

ROOT = Path(__file__).resolve().parents[2]
PAIRS = "resnet56_resnet20,resnet32x4_resnet8x4"
# Of the first run, the second, ...; repeated for a larger cohort.
METHODS = ("kd", "ctkd", "dtkd", "atkd", "logit_std", "ttm", "wttm", "dkd")


@dataclass(frozen=True)
class Bench:
    """Config, device and data of all runs of a benchmark."""

    cfg: DictConfig
    compute: Compute
    threads: int
    data: DataModule

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the numbers depend on, besides the code."""
        device, dataset = self.compute.device, self.cfg.dataset
        return {
            "cpu": cpu_model(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "device": str(device),
            "precision": self.compute.precision,
            "threads": self.threads,
            "dataset": dataset.name,
            "batch_size": dataset.batch_size,
        }


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("--device", default="auto", help="as run.device")
    parser.add_argument("--precision", default="auto", help="as run.precision")
    parser.add_argument("--threads", default="null", help="as run.threads; 1 on a busy machine")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument(
        "--override", nargs="+", default=[], metavar="KEY=VALUE", help="of kdbench's config"
    )
    return parser


def parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number >= 1")
    return int(text)


def list_overrides(args: argparse.Namespace) -> list[str]:
    """The options of all benchmarks, as overrides of the config."""
    return [
        f"dataset={args.dataset}",
        f"paths.data='{args.data}'",
        f"paths.outputs='{args.outputs}'",
        f"run.device={args.device}",
        f"run.precision={args.precision}",
        f"run.threads={args.threads}",
        "run.epochs=240",
        "run.data_seed=0",
        "tracker=csv",
        *args.override,
    ]


def open_bench(overrides: Sequence[str], pairs: str) -> Bench:
    """Raises ConfigError if an override or one of the comma-separated pairs is invalid."""
    check_overrides([*overrides, f"pair={pairs}"])
    cfg = compose_config(overrides)
    threads = set_threads(cfg.run.threads)
    compute = configure_compute(cfg)
    return Bench(cfg, compute, threads, open_data(cfg, compute))


def compose_runs(overrides: Sequence[str], number: int) -> list[DictConfig]:
    methods = islice(cycle(METHODS), number)
    return [
        compose_config([*overrides, f"method={method}", f"seed={seed}"])
        for seed, method in enumerate(methods)
    ]


def fresh_teacher(cfg: DictConfig, batch: Batch, compute: Compute) -> nn.Module:
    """An untrained teacher: training does not change its cost."""
    with RandomState(cfg.teacher.seed, compute.device).turn():
        network = compute.place(build(cfg.teacher.model))
    # Without batch statistics the logits of a deep network are in the thousands.
    torch.optim.swa_utils.update_bn([batch], network)
    return network


def save_teacher(
    pair: str, bench: Bench, overrides: Sequence[str], folder: Path
) -> tuple[DictConfig, Path]:
    """The config of the first run of a pair, and a file with its untrained teacher."""
    (cfg,) = compose_runs([*overrides, f"pair={pair}"], 1)
    batch = next(bench.data.train_batches(epoch=0))
    path = folder / f"{pair}.pth"
    torch.save({"model": fresh_teacher(cfg, batch, bench.compute).state_dict()}, path)
    return cfg, path


def make_trainer(teacher: Teacher | None, cfgs: Sequence[DictConfig], bench: Bench) -> Trainer:
    first = cfgs[0]
    folder = Path(first.paths.outputs) / "bench"
    runs = [prepare_run(cfg, folder, "bench", teacher, bench.data, bench.compute) for cfg in cfgs]
    return Trainer(
        teacher,
        runs,
        bench.data,
        epochs=first.run.epochs,
        protocol=first.run.protocol,
        compute=bench.compute,
        checkpoint_minutes=first.run.checkpoint_minutes,
        display=Display(
            first.run.epochs, bench.data.steps_per_epoch, {run.key: run.name for run in runs}
        ),
    )


class Work:
    """The work of kdbench in its own process: training steps, or only data loading.

    Args:
        kind: "single" is one run of the first of the METHODS, "cohort" one run of each, "memo" the
            same cohort with all teacher logits cached, "batches" only loads data.
        pair: of networks.
        learners: runs of a cohort.
        weights: file of the teacher.
        overrides: of the config.
    """

    KINDS = ("single", "cohort", "memo", "batches")
    UNTIMED = 3  # warm-up steps of a turn, for caches and threads

    def __init__(
        self, kind: str, pair: str, learners: int, weights: Path, overrides: Sequence[str]
    ) -> None:
        self.bench = open_bench(overrides, pair)
        self.batches = endless(self.bench.data)
        self.trainer: Trainer | None = None
        self._ahead: Iterator[Batch] | None = None
        if kind == "batches":
            return
        mode = "memory" if kind == "memo" else "off"
        cfgs = compose_runs(
            [*overrides, f"pair={pair}", f"teacher.memo={mode}"],
            1 if kind == "single" else learners,
        )
        teacher, _ = load_teacher(cfgs[0], weights, self.bench.compute)
        teacher.memo = open_memo(cfgs[0], teacher.digest, self.bench.data, self.bench.compute)
        self.trainer = make_trainer(teacher, cfgs, self.bench)
        if kind == "memo":
            self._ahead = endless(self.bench.data)

    def do(self, number: int) -> None:
        """Runs the next steps, or loads the next batches."""
        batches = islice(self.batches, number)
        if self.trainer is None:
            deque(batches, maxlen=0)
        else:
            advance(self.trainer, batches)

    def seconds(self, number: int) -> float:
        """Time of the next steps, with their teacher logits cached for "memo"."""
        if self._ahead is not None and self.trainer is not None:
            for batch in islice(self._ahead, self.UNTIMED + number):
                self.trainer.teacher.query(batch)
        self.do(self.UNTIMED)
        return stopwatch(partial(self.do, number), self.bench.compute.device)

    def peak_memory_mb(self) -> float:
        """Peak memory of training so far and of evaluation, in MB."""
        if self.trainer is not None:  # all evaluation batches need the same
            batch = next(iter(self.bench.data.eval_batches("test")))
            self.trainer.teacher(batch.images)
            for run in self.trainer.runs:
                run.learner.predict(batch.images)
        return self.bench.compute.peak_memory_mb()


def endless(data: DataModule) -> Iterator[Batch]:
    """The batches of all epochs."""
    for epoch in count():
        yield from data.train_batches(epoch)


def advance(trainer: Trainer, batches: Iterable[Batch]) -> None:
    """Runs the next steps of all runs; raises the error of a failed run, which would be skipped."""
    for batch in batches:
        step = trainer.runs[0].learner.step
        epoch = step // trainer.data.steps_per_epoch
        progress = Progress(step, trainer.total_steps, epoch, trainer.epochs)
        trainer.train_step(batch, progress, trainer.runs)
    for run in trainer.runs:
        if run.error is not None:
            raise run.error


def stopwatch(work: Callable[[], None], device: torch.device) -> float:
    """Seconds for some work, including its kernels on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def format_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; ``columns`` maps each heading to a format string."""
    cells = [[text.format(**row) for text in columns.values()] for row in rows]
    return write_markdown_table([list(columns), *cells])
