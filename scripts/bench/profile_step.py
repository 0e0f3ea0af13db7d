"""The time of a training step by kind of operation.

Steps with and without the profiler alternate, and all times are medians. The kinds are timed with
the profiler, the wall time without it; the difference is the row "between": Python, launches,
waiting. The profiler slows down many small calls, but hardly a few large ones, so the share outside
convolutions, linear layers and batch norm is the wall time minus these three.

The backward of an operation counts as the same kind; casts and copies inside an operation count as
casts and copies. On CUDA the times are those of kernels.
"""

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent

from kdbench.data.base import Batch
from kdbench.errors import KdbenchError
from scripts.bench.common import (
    PAIRS,
    Work,
    format_table,
    list_overrides,
    make_parser,
    open_bench,
    parse_count,
    save_teacher,
    stopwatch,
)

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it logs every start and stop
# All operations inside these count as their kind.
SCOPES = {
    "data": re.compile(r"^scope: data"),
    "loss, temperature, meters": re.compile(r"^scope: loss"),
    "optimizer": re.compile(r"^Optimizer\."),
}
# Otherwise the innermost enclosing operation with such a name decides.
KINDS = {
    "casts and copies": re.compile(
        r"^aten::(to|_to_copy|copy_|contiguous|clone)$|ToCopyBackward|CopyBackwards|CloneBackward"
    ),
    "batch norm": re.compile(r"batch_?norm", re.IGNORECASE),
    "convolution": re.compile(r"conv", re.IGNORECASE),
    "linear": re.compile(r"aten::(linear|addmm|mm|t)$|(Addmm|Mm|T|Linear)Backward\d"),
    "loss, temperature, meters": re.compile(
        r"(LogSoftmax|NllLoss|Exp|Mul|Sub|Sum|Div|Stack|Mean|Neg|Index|Gather)Backward\d"
        r"|MseLoss|KlDiv|SmoothL1"
    ),
    "activation, addition, pooling": re.compile(
        r"aten::(relu_?|threshold|clamp_min_?|add_?|.*pool.*|mean|view|flatten|pad)"
        r"|(Relu|Threshold|Add|.*Pool.*|View|ConstantPad.*)\w*Backward",
        re.IGNORECASE,
    ),
    "optimizer": re.compile(r"AccumulateGrad"),
}
CORE = ("convolution", "linear", "batch norm")
BETWEEN = "between"
COLUMNS = {"kind": "{kind}", "ms/step": "{milliseconds:.2f}", "share": "{share:.1%}"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--cohort", type=parse_count, default=1, help="number of runs")
    parser.add_argument("--steps", type=parse_count, default=10, help="number of profiled steps")
    args = parser.parse_args(argv)
    overrides = list_overrides(args)
    try:
        bench = open_bench(overrides, args.pairs)
        for pair in args.pairs.split(","):
            with TemporaryDirectory() as folder:
                _, weights = save_teacher(pair, bench, overrides, Path(folder))
                work = Work("cohort", pair, args.cohort, weights, overrides)
            show(pair, args.cohort, work, profile(work, args.steps))
    except KdbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def show(pair: str, runs: int, work: Work, found: dict[str, Any]) -> None:
    circumstances = {"pair": pair, "runs": runs, **work.bench.circumstances}
    print("\n" + ", ".join(f"{name} {value}" for name, value in circumstances.items()))
    seconds = found["seconds"]
    parts = {**found["kinds"], "total": seconds}
    rows = [
        {"kind": kind, "milliseconds": 1000 * value, "share": value / seconds}
        for kind, value in parts.items()
    ]
    print("", format_table(COLUMNS, rows), sep="\n")
    print(f"\noutside {', '.join(CORE)}: {found['outside']:.1%}", flush=True)


def profile(work: Work, steps: int) -> dict[str, Any]:
    """Median seconds of a step and of each kind, longest first, and the share outside the CORE."""
    mark(work)
    device = work.bench.compute.device
    work.do(Work.UNTIMED)
    walls, steps_by_kind = [], []
    for _ in range(steps):
        walls.append(stopwatch(lambda: work.do(1), device))
        steps_by_kind.append(profile_step(work, device))
    seconds = median(walls)
    found = {kind for step in steps_by_kind for kind in step}
    kinds = {kind: median(step.get(kind, 0.0) for step in steps_by_kind) for kind in found}
    core = sum(kinds.get(kind, 0.0) for kind in CORE)
    # Not below 0, in case the profiler slows down the small calls too much.
    kinds[BETWEEN] = max(seconds - sum(kinds.values()), 0.0)
    ordered = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return {"seconds": seconds, "kinds": ordered, "outside": 1 - core / seconds}


def profile_step(work: Work, device: torch.device) -> dict[str, float]:
    """Seconds of each kind in the next step."""
    on_cuda = device.type == "cuda"
    with torch.profiler.profile() as profiler:
        stopwatch(lambda: work.do(1), device)
    seconds = defaultdict[str, float](float)
    for event in profiler.events():
        if event.device_type.name == "CPU":  # kernels count for the operation that launched them
            own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            seconds[kind_of(event)] += own / 1e6
    return seconds


def kind_of(event: FunctionEvent) -> str:
    """The kind of an operation: its scope, or of the innermost one with a known name."""
    names = list(lineage(event))
    for kind, pattern in SCOPES.items():
        if any(pattern.search(name) for name in names):
            return kind
    for name in names:
        for kind, pattern in KINDS.items():
            if pattern.search(name):
                return kind
    return "other operations"


def lineage(event: FunctionEvent | None) -> Iterator[str]:
    """Names of an operation and of all enclosing ones, innermost first."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def mark(work: Work) -> None:
    """Marks the parts of a step outside the networks with the names of SCOPES."""
    work.batches = named_batches(work.batches)
    for run in work.trainer.runs if work.trainer else ():
        learner = run.learner
        learner.objective.forward = named(learner.objective.forward)
        learner.guard.watch = named(learner.guard.watch)
        learner.meter.update = named(learner.meter.update)


def named(method: Callable) -> Callable:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function("scope: loss"):
            return method(*args, **kwargs)

    return call


def named_batches(batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        with torch.profiler.record_function("scope: data"):
            batch = list(islice(batches, 1))
        yield from batch


if __name__ == "__main__":
    main()
