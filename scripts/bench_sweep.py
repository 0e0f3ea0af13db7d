"""N single runs against one cohort of N: what it saves that a sweep asks its teacher once.

In one process, for each pair and each N: the time of a step of N single runs, added up, against
the time of a step of the cohort of the same N runs. Their methods differ, as those of a sweep do.
Singles and cohorts take turns on the same batches, in an order that turns round from one round to
the next; the first round warms up and does not count. The teacher alone has a turn too, from which
its shares follow. Fetching batches is not timed; it would favour the cohort, which fetches once.

The bound is what multiply-adds allow: a step costs a single run T + 3 S and a cohort T + 3 N S,
where T and S are a forward pass of teacher and student, and a backward pass counts as two. N = 1
is the control: how far its ratio is from 1 tells how far to trust the others.

The teacher is freshly initialised, because what it knows does not change what it costs. All that
is written is below --outputs; the result is bench/sweep-<date>.json there.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import cycle, islice
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.config.overrides import check_overrides
from kdbench.data.base import Batch, DataModule
from kdbench.digest import state_digest
from kdbench.engine.assemble import open_data, prepare_run
from kdbench.engine.device import Compute, choose_compute, set_threads
from kdbench.engine.seed import RandomState
from kdbench.engine.speed import cpu_model
from kdbench.engine.teacher import Teacher
from kdbench.engine.trainer import Trainer
from kdbench.errors import KdbenchError
from kdbench.files import write_atomic
from kdbench.model.profile import count_macs
from kdbench.progress import Progress
from kdbench.results.environment import describe_environment
from kdbench.tracker.display import Display

ROOT = Path(__file__).resolve().parents[1]
# Of the first run, of the second, ...; a larger cohort begins again with the first.
METHODS = ("kd", "ctkd", "dtkd", "atkd", "logit_std", "ttm", "wttm", "dkd")
STEPS = {"cpu": 2, "cuda": 30}  # of a turn: long for the clock, short for whatever else runs
COLUMNS = {
    "pair": "{pair}",
    "N": "{runs}",
    "N singles, s/step": "{singles_seconds:.4f}",
    "cohort, s/step": "{cohort_seconds:.4f}",
    "ratio": "{ratio:.2f}",
    "min-max": "{ratio_min:.2f}-{ratio_max:.2f}",
    "teacher in singles": "{teacher_share_singles:.0%}",
    "in cohort": "{teacher_share_cohort:.0%}",
    "bound": "{bound:.2f}",
    "ratio/bound": "{ratio_of_bound:.2f}",
}


def main(argv: Sequence[str] | None = None) -> None:
    args, now = parse_arguments(argv), datetime.now().astimezone()
    path = args.outputs / "bench" / f"sweep-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        report = {"date": now.isoformat(timespec="seconds"), **measure(args)}
        write_atomic(path, json.dumps(report, indent=1).encode())
    except KdbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("", format_table(report["rows"]), "", path, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--pairs", default="resnet56_resnet20,resnet32x4_resnet8x4")
    parser.add_argument("--learners", type=parse_counts, default="1,2,4,8", help="the N")
    parser.add_argument("--steps", type=parse_count, help=f"of a turn; default {STEPS}")
    parser.add_argument("--repeats", type=parse_count, default=7, help="rounds that count")
    parser.add_argument("--device", default="auto", help="as run.device")
    parser.add_argument("--precision", default="auto", help="as run.precision")
    parser.add_argument("--threads", default="null", help="as run.threads; 1 if others compute")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    return parser.parse_args(argv)


def parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number >= 1")
    return int(text)


def parse_counts(text: str) -> list[int]:
    return sorted({parse_count(part) for part in text.split(",")})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The rows of the table, and what they were measured with."""
    overrides = [
        f"dataset={args.dataset}",
        f"paths.data='{args.data}'",
        f"paths.outputs='{args.outputs}'",
        f"run.device={args.device}",
        f"run.precision={args.precision}",
        f"run.threads={args.threads}",
        "run.epochs=240",
        "run.data_seed=0",
        "tracker=csv",
    ]
    check_overrides([*overrides, f"pair={args.pairs}"])
    cfg = compose_config(overrides)
    threads = set_threads(cfg.run.threads)
    compute = choose_compute(cfg.run.device, cfg.run.precision, cfg.run.channels_last)
    data, device = open_data(cfg, compute), compute.device
    steps = STEPS[device.type] if args.steps is None else args.steps
    batches = list(islice(data.train_batches(epoch=0), steps))
    circumstances = {
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": str(device),
        "precision": compute.precision,
        "threads": threads,
        "dataset": cfg.dataset.name,
        "batch_size": cfg.dataset.batch_size,
        "steps": len(batches),
        "repeats": args.repeats,
    }
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    rows = []
    for pair in args.pairs.split(","):
        cfgs = compose_runs([*overrides, f"pair={pair}"], max(args.learners))
        turns = prepare_turns(cfgs, args.learners, data, batches, compute)
        rounds = time_rounds(pair, turns, 1 + args.repeats, len(batches), device)
        macs = count_networks(cfgs[0])
        rows += [summarise(cfgs[:n], macs, rounds[1:]) for n in args.learners]
    return {**circumstances, "environment": describe_environment(), "rows": rows}


def compose_runs(overrides: Sequence[str], count: int) -> list[DictConfig]:
    methods = islice(cycle(METHODS), count)
    return [
        compose_config([*overrides, f"method={method}", f"seed={seed}"])
        for seed, method in enumerate(methods)
    ]


def prepare_turns(
    cfgs: Sequence[DictConfig],
    sizes: Sequence[int],
    data: DataModule,
    batches: Sequence[Batch],
    compute: Compute,
) -> dict[str, Callable[[], None]]:
    """What takes turns: the teacher, each run alone, and each cohort after the last of its runs."""
    teacher = make_teacher(cfgs[0], batches, compute)
    turns: dict[str, Callable[[], None]] = {"teacher": partial(ask, teacher, batches)}
    for n in range(1, len(cfgs) + 1):
        alone = make_trainer(teacher, cfgs[n - 1 : n], data, compute)
        turns[f"single {n}"] = partial(advance, alone, batches)
        if n in sizes:
            cohort = make_trainer(teacher, cfgs[:n], data, compute)
            turns[f"cohort {n}"] = partial(advance, cohort, batches)
    return turns


def make_teacher(cfg: DictConfig, batches: Sequence[Batch], compute: Compute) -> Teacher:
    with RandomState(cfg.teacher.seed, compute.device).turn():
        network = compute.place(build(cfg.teacher.model))
    # Without its statistics a deep network answers in the thousands, which no teacher does.
    torch.optim.swa_utils.update_bn(batches[:1], network)
    return Teacher(network, compute, state_digest(network.state_dict()))


def make_trainer(
    teacher: Teacher, cfgs: Sequence[DictConfig], data: DataModule, compute: Compute
) -> Trainer:
    lead = cfgs[0]
    folder = Path(lead.paths.outputs) / "bench"
    runs = [prepare_run(cfg, folder, "bench", teacher, compute) for cfg in cfgs]
    return Trainer(
        teacher,
        runs,
        data,
        epochs=lead.run.epochs,
        protocol=lead.run.protocol,
        compute=compute,
        checkpoint_minutes=lead.run.checkpoint_minutes,
        display=Display(lead.run.epochs, data.steps_per_epoch, [run.name for run in runs]),
    )


def ask(teacher: Teacher, batches: Sequence[Batch]) -> None:
    for batch in batches:
        teacher(batch.images)


def advance(trainer: Trainer, batches: Sequence[Batch]) -> None:
    """The next steps of all runs; raises the error of one that failed and would cost no time."""
    for batch in batches:
        step = trainer.runs[0].learner.step
        epoch = step // trainer.data.steps_per_epoch
        progress = Progress(step, trainer.total_steps, epoch, trainer.epochs)
        trainer.train_step(batch, progress, trainer.runs)
    for run in trainer.runs:
        if run.error is not None:
            raise run.error


def time_rounds(
    pair: str,
    turns: Mapping[str, Callable[[], None]],
    count: int,
    steps: int,
    device: torch.device,
) -> list[dict[str, float]]:
    """Seconds per step of every turn, for each round."""
    rounds = []
    for number in range(count):
        order = list(turns) if number % 2 == 0 else list(turns)[::-1]
        seconds = {name: stopwatch(turns[name], device) for name in order}
        rounds.append({name: value / steps for name, value in seconds.items()})
        took = sum(seconds.values())
        print(f"{pair}, round {number + 1} of {count}: {took:.1f} s", flush=True)
    return rounds


def stopwatch(work: Callable[[], None], device: torch.device) -> float:
    """Seconds until some work is done, on the device too."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_networks(cfg: DictConfig) -> tuple[int, int]:
    """Multiply-adds of a forward pass of teacher and student."""
    channels, size = cfg.dataset.channels, cfg.dataset.image_size
    teacher, student = build(cfg.teacher.model), build(cfg.student)
    return count_macs(teacher, channels, size), count_macs(student, channels, size)


def ratio_bound(runs: int, teacher: float, student: float) -> float:
    """Ratio of N single runs to their cohort if time were multiply-adds and nothing else.

    Args:
        runs: N, >= 1.
        teacher: T, multiply-adds of a forward pass, > 0.
        student: S, the same.
    """
    return runs * (teacher + 3 * student) / (teacher + 3 * runs * student)


def summarise(
    cfgs: Sequence[DictConfig], macs: tuple[int, int], rounds: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """One row of the table: N single runs and their cohort, medians over the rounds."""
    n = len(cfgs)
    singles = [sum(seconds[f"single {i}"] for i in range(1, n + 1)) for seconds in rounds]
    cohort = [seconds[f"cohort {n}"] for seconds in rounds]
    teacher = [seconds["teacher"] for seconds in rounds]
    ratios = list(map(truediv, singles, cohort))
    bound = ratio_bound(n, *macs)
    return {
        "pair": cfgs[0].pair,
        "runs": n,
        "methods": [cfg.method for cfg in cfgs],
        "singles_seconds": median(singles),
        "cohort_seconds": median(cohort),
        "teacher_seconds": median(teacher),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "teacher_share_singles": n * median(map(truediv, teacher, singles)),
        "teacher_share_cohort": median(map(truediv, teacher, cohort)),
        "teacher_macs": macs[0],
        "student_macs": macs[1],
        "bound": bound,
        "ratio_of_bound": median(ratios) / bound,
        "rounds": {"teacher": teacher, "singles": singles, "cohort": cohort},
    }


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        list(COLUMNS),
        ["--"] + ["--:"] * (len(COLUMNS) - 1),
        *([text.format(**row) for text in COLUMNS.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    main()
