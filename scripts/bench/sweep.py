"""N single runs against one cohort of N: the speedup from sharing the teacher's forward pass.

In one process, for each pair and each N: the total time of a step of N single runs against the time
of a step of the cohort of the same N runs, with different methods, as in a sweep. Singles and
cohorts take turns on the same batches, in an order that is reversed every round; the first round is
a warm-up. The teacher also has its own turn, which gives its shares. Data loading is not timed,
because that would favor the cohort, which loads each batch once.

The bound is the ratio of multiply-adds: a step of a single run costs T + 3 S and that of a cohort
T + 3 N S, where T and S are a forward pass of teacher and student, and a backward pass counts as
two. N = 1 is the control: the distance of its ratio from 1 is the error of the others.

The teacher is untrained, because training does not change its cost. All output goes below
--outputs; the result is bench/sweep-<date>.json there.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from operator import truediv
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from kdbench.config.build import build
from kdbench.data.base import Batch
from kdbench.digest import state_digest
from kdbench.errors import KdbenchError
from kdbench.files import write_atomic
from kdbench.model.profile import count_macs
from kdbench.records.environment import describe_environment
from kdbench.teacher.teacher import Teacher
from scripts.bench.common import (
    PAIRS,
    Bench,
    advance,
    compose_runs,
    format_table,
    fresh_teacher,
    list_overrides,
    make_parser,
    make_trainer,
    open_bench,
    parse_count,
    stopwatch,
)

STEPS = {"cpu": 2, "cuda": 30}  # of a turn: long enough to time, short against other load
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
    print("", format_table(COLUMNS, report["rows"]), "", path, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--learners", type=parse_counts, default="1,2,4,8", help="the N")
    parser.add_argument("--steps", type=parse_count, help=f"of a turn; default {STEPS}")
    parser.add_argument("--repeats", type=parse_count, default=7, help="rounds without the warm-up")
    return parser.parse_args(argv)


def parse_counts(text: str) -> list[int]:
    return sorted({parse_count(part) for part in text.split(",")})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The rows of the table, and their circumstances."""
    overrides = list_overrides(args)
    bench = open_bench(overrides, args.pairs)
    device = bench.compute.device
    steps = STEPS[device.type] if args.steps is None else args.steps
    batches = list(islice(bench.data.train_batches(epoch=0), steps))
    circumstances = {**bench.circumstances, "steps": len(batches), "repeats": args.repeats}
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    rows = []
    for pair in args.pairs.split(","):
        cfgs = compose_runs([*overrides, f"pair={pair}"], max(args.learners))
        turns = prepare_turns(cfgs, args.learners, bench, batches)
        rounds = time_rounds(pair, turns, 1 + args.repeats, len(batches), device)
        macs = count_networks(cfgs[0])
        rows += [summarize(cfgs[:n], macs, rounds[1:]) for n in args.learners]
    return {**circumstances, "environment": describe_environment(), "rows": rows}


def prepare_turns(
    cfgs: Sequence[DictConfig], sizes: Sequence[int], bench: Bench, batches: Sequence[Batch]
) -> dict[str, Callable[[], None]]:
    """The turns: the teacher, each single run, and each cohort after the last of its runs."""
    network = fresh_teacher(cfgs[0], batches[0], bench.compute)
    teacher = Teacher(network, bench.compute, state_digest(network.state_dict()))
    turns: dict[str, Callable[[], None]] = {"teacher": partial(query_teacher, teacher, batches)}
    for n in range(1, len(cfgs) + 1):
        alone = make_trainer(teacher, cfgs[n - 1 : n], bench)
        turns[f"single {n}"] = partial(advance, alone, batches)
        if n in sizes:
            cohort = make_trainer(teacher, cfgs[:n], bench)
            turns[f"cohort {n}"] = partial(advance, cohort, batches)
    return turns


def query_teacher(teacher: Teacher, batches: Sequence[Batch]) -> None:
    for batch in batches:
        teacher(batch.images)


def time_rounds(
    pair: str,
    turns: Mapping[str, Callable[[], None]],
    count: int,
    steps: int,
    device: torch.device,
) -> list[dict[str, float]]:
    """Seconds per step of every turn in each round."""
    rounds = []
    for number in range(count):
        order = list(turns) if number % 2 == 0 else list(turns)[::-1]
        seconds = {name: stopwatch(turns[name], device) for name in order}
        rounds.append({name: value / steps for name, value in seconds.items()})
        took = sum(seconds.values())
        print(f"{pair}, round {number + 1} of {count}: {took:.1f} s", flush=True)
    return rounds


def count_networks(cfg: DictConfig) -> tuple[int, int]:
    """Multiply-adds of a forward pass of teacher and student."""
    channels, size = cfg.dataset.channels, cfg.dataset.image_size
    teacher, student = build(cfg.teacher.model), build(cfg.student)
    return count_macs(teacher, channels, size), count_macs(student, channels, size)


def ratio_bound(runs: int, teacher: float, student: float) -> float:
    """Ratio of N single runs to their cohort in multiply-adds.

    Args:
        runs: N, >= 1.
        teacher: T, multiply-adds of a forward pass, > 0.
        student: S, multiply-adds of a forward pass, > 0.
    """
    return runs * (teacher + 3 * student) / (teacher + 3 * runs * student)


def summarize(
    cfgs: Sequence[DictConfig], macs: tuple[int, int], rounds: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """One row: N single runs and their cohort, medians over the rounds."""
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


if __name__ == "__main__":
    main()
