"""The overhead of logs and checks of a run: meters, guard, display, CSV, W&B and checkpoints.

It measures a real run, with W&B offline and a progress bar, halfway through, when the tables that
it writes have half their final length. Its epochs are cut to a few steps; then the meters are
filled up to a whole epoch, and the whole test set is evaluated. In every second epoch the methods
that log and check are timed. The other epochs give the time of a step and of what follows the
steps. Every epoch counts as the best so far, so that its weights are written too.

The share of a part is its time in a whole epoch, divided by the time of that epoch. On CUDA the
stopwatch synchronizes, which makes the parts look slower than they are.

The teacher is untrained, because training does not change its cost. All output goes below
--outputs; the result is bench/overhead-<date>.json there.
"""

import argparse
import io
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import wraps
from itertools import islice
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from kdbench.config.compose import compose_config
from kdbench.data.base import Batch, DataModule
from kdbench.digest import state_digest
from kdbench.engine import journal, trainer
from kdbench.engine.guard import FiniteGuard
from kdbench.engine.journal import Journal
from kdbench.engine.metrics import TrainMeter
from kdbench.engine.signals import StopSignals
from kdbench.engine.trainer import Run, Trainer
from kdbench.errors import KdbenchError
from kdbench.files import write_atomic
from kdbench.records.environment import describe_environment
from kdbench.teacher.teacher import Teacher
from kdbench.tracker.display import Display
from kdbench.tracker.wandb import WandbTracker
from scripts.bench.common import (
    Bench,
    format_table,
    fresh_teacher,
    list_overrides,
    make_parser,
    make_trainer,
    open_bench,
    parse_count,
    stopwatch,
)

ALLOWED = 0.02  # of the time of a run
# None of them calls another.
PARTS = (
    ("meters", TrainMeter, "update", "step"),
    ("meters", TrainMeter, "compute", "epoch"),
    ("meters", trainer, "evaluate_logits", "epoch"),
    ("guard", FiniteGuard, "watch", "step"),
    ("display", Display, "step", "step"),
    ("display", Display, "epoch", "epoch"),
    ("CSV", journal, "write_metrics", "epoch"),
    ("W&B", WandbTracker, "start", "run"),
    ("W&B", WandbTracker, "log", "epoch"),
    ("W&B", WandbTracker, "finish", "run"),
    ("checkpoints", Journal, "commit", "epoch"),
    ("checkpoints", journal, "save_weights", "epoch"),
)
COLUMNS = {
    "part": "{part}",
    "what": "{what}",
    "once per": "{unit}",
    "ms": "{ms:.3f}",
    "min-max": "{ms_min:.3f}-{ms_max:.3f}",
    "ms per epoch": "{epoch_ms:.1f}",
    "share": "{share:.3%}",
}


def main(argv: Sequence[str] | None = None) -> None:
    args, now = parse_arguments(argv), datetime.now().astimezone()
    path = args.outputs / "bench" / f"overhead-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # On the same disk as real runs, because their writes are synced.
        with TemporaryDirectory(dir=path.parent, prefix="overhead-") as folder:
            report = {"date": now.isoformat(timespec="seconds"), **measure(args, folder)}
        write_atomic(path, json.dumps(report, indent=1).encode())
    except KdbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("", format_table(COLUMNS, report["rows"]), "", conclude(report), path, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pair", default="resnet56_resnet20")
    parser.add_argument("--steps", type=parse_count, default=30, help="per epoch")
    parser.add_argument("--rounds", type=parse_count, default=3, help="number of timed epochs")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The rows of the table, and their circumstances."""
    overrides = [
        *("tracker=wandb" if o == "tracker=csv" else o for o in list_overrides(args)),
        "tracker.mode=offline",
        f"paths.outputs='{folder}'",
        f"paths.cache='{args.outputs / 'cache'}'",
    ]
    whole = open_bench(overrides, args.pair)
    bench = replace(whole, data=ShortEpochs(whole.data, args.steps))
    length = Length(whole.cfg.run.epochs, whole.data.steps_per_epoch)
    circumstances = {**bench.circumstances, **asdict(length), "rounds": args.rounds}
    circumstances |= {"pair": args.pair, "short_steps": bench.data.steps_per_epoch}
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    found = observe(bench, [*overrides, f"pair={args.pair}"], args.rounds)
    return {**circumstances, "environment": describe_environment(), **summarize(found, length)}


@dataclass(frozen=True)
class Length:
    """Length of a whole run."""

    epochs: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Observed:
    """Measured seconds, one value per epoch.

    Attributes:
        step: of a step, the mean of an epoch.
        rest: of an epoch, after its steps.
        parts: timed method -> seconds per step, epoch or run (its unit in PARTS).
    """

    step: list[float]
    rest: list[float]
    parts: dict[str, list[float]]


class ShortEpochs:
    """A data module whose epochs end after a few steps."""

    def __init__(self, data: DataModule, steps: int) -> None:
        self._data, self.steps_per_epoch = data, min(steps, data.steps_per_epoch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def train_batches(
        self, epoch: int, start: int = 0, views: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """The first batches of an epoch."""
        batches = self._data.train_batches(epoch, start, views)
        return islice(batches, self.steps_per_epoch - start)


class Terminal(io.StringIO):
    """A fake terminal for the progress bar."""

    def isatty(self) -> bool:
        """True, so that the bar is drawn."""
        return True


def observe(bench: Bench, overrides: Sequence[str], rounds: int) -> Observed:
    """Trains and measures."""
    device, steps = bench.compute.device, bench.data.steps_per_epoch
    found = Observed([], [], defaultdict(list))
    with watched(device) as starting:
        trainer = prepare(bench, overrides)
    (run,) = trainer.runs
    with trainer.display.start():
        run_epoch(trainer, run, 0)  # warms up
        middle = trainer.epochs // 2
        go_to(run, middle, steps)
        for epoch in range(middle, middle + 2 * rounds):
            watch = (epoch - middle) % 2 == 1
            with watched(device, on=watch) as seconds:
                step, rest = run_epoch(trainer, run, epoch)
            for what, value in seconds.items():
                found.parts[what].append(value / steps if UNIT[what] == "step" else value)
            if not watch:
                found.step.append(step / steps)
                found.rest.append(rest)
            print(f"epoch {epoch}: {step + rest:.1f} s", flush=True)
    with watched(device) as ending:
        run.journal.tracker.finish("done", {})
    for what, value in (starting | ending).items():
        found.parts[what].append(value)
    return found


def prepare(bench: Bench, overrides: Sequence[str]) -> Trainer:
    """One run, with a progress bar."""
    cfg = compose_config(overrides)
    network = fresh_teacher(cfg, next(iter(bench.data.train_batches(0))), bench.compute)
    teacher = Teacher(network, bench.compute, state_digest(network.state_dict()))
    trainer = make_trainer(teacher, [cfg], bench)
    names = {run.key: run.name for run in trainer.runs}
    trainer.display = Display(trainer.epochs, bench.data.steps_per_epoch, names, Terminal())
    return trainer


def go_to(run: Run, epoch: int, steps: int) -> None:
    """Puts a run into its state at an epoch, with as many rows as it would have written."""
    journal, count = run.journal, range(1, epoch + 1)
    journal.rows = [journal.rows[-1] | {"epoch": i} for i in count]
    journal.timings = [journal.timings[-1] | {"epoch": i} for i in count]
    run.learner.step = epoch * steps
    for row, timing in zip(journal.rows, journal.timings, strict=True):
        journal.tracker.log({**row, **timing})


def run_epoch(trainer: Trainer, run: Run, epoch: int) -> tuple[float, float]:
    """Seconds of the steps of an epoch, and of what follows them."""
    device, meter = trainer.compute.device, run.learner.meter
    step = stopwatch(lambda: trainer.train_epoch(epoch, [run], StopSignals()), device)
    fill(meter, trainer.data.num_train, device)
    rest = stopwatch(lambda: trainer.end_epoch(epoch, [run]), device)
    if run.error is not None:
        raise run.error
    run.journal.rows[-1][run.journal.selection] = -1.0  # so that the next epoch is the best
    return step, rest


def fill(meter: TrainMeter, samples: int, device: torch.device) -> None:
    """Fills up temperatures to a whole epoch, as the time of their quantiles depends on it."""
    state = meter.state_dict()
    for name, values in state.items():
        if name.endswith("/all"):
            state[name] = values.repeat(-(-samples // len(values)))[:samples]
    meter.load_state_dict(state, device)


@contextmanager
def watched(device: torch.device, on: bool = True) -> Iterator[dict[str, float]]:
    """Adds the seconds of the parts within this context to a dict, if ``on``."""
    seconds: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for _, owner, name, _ in PARTS if on else ():
            method = timed(getattr(owner, name), label(owner, name), seconds, device)
            stack.enter_context(patch.object(owner, name, method))
        yield seconds


def timed(
    method: Callable[..., Any], what: str, seconds: dict[str, float], device: torch.device
) -> Callable[..., Any]:
    """Wraps a method with a stopwatch."""

    @wraps(method)
    def measured(*args: Any, **kwargs: Any) -> Any:
        results: list[Any] = []
        seconds[what] += stopwatch(lambda: results.append(method(*args, **kwargs)), device)
        return results[0]

    return measured


def label(owner: Any, name: str) -> str:
    return f"{owner.__name__.rpartition('.')[2]}.{name}"


UNIT = {label(owner, name): unit for _, owner, name, unit in PARTS}


def summarize(found: Observed, length: Length) -> dict[str, Any]:
    """The table: medians over the epochs."""
    step, rest = median(found.step), median(found.rest)
    epoch = length.steps_per_epoch * step + rest
    times = {"step": length.steps_per_epoch, "epoch": 1, "run": 1 / length.epochs}
    rows = []
    for part, owner, name, unit in PARTS:
        what = label(owner, name)
        values = [1000 * seconds for seconds in found.parts[what]]
        row: dict[str, Any] = {"part": part, "what": what, "unit": unit, "ms": median(values)}
        row |= {"ms_min": min(values), "ms_max": max(values)}
        row["epoch_ms"] = times[unit] * row["ms"]
        rows.append(row | {"share": row["epoch_ms"] / 1000 / epoch, "rounds": values})
    shares: dict[str, float] = defaultdict(float)
    for row in rows:
        shares[row["part"]] += row["share"]
    seconds = {"step_seconds": step, "rest_seconds": rest, "epoch_seconds": epoch}
    total = {"share": sum(shares.values()), "allowed": ALLOWED}
    return {**seconds, **total, "shares": shares, "rows": rows}


def conclude(report: Mapping[str, Any]) -> str:
    """The total overhead, whether it is allowed, and its parts."""
    shares = sorted(report["shares"].items(), key=lambda item: -item[1])
    parts = ", ".join(f"{part} {share:.2%}" for part, share in shares)
    verdict = "more than" if report["share"] > report["allowed"] else "within"
    return (
        f"{report['step_seconds']:.4f} s per step, {report['rest_seconds']:.2f} s after the last "
        f"step of an epoch.\nTotal {report['share']:.2%} of a run of {report['epochs']} epochs of "
        f"{report['steps_per_epoch']} steps, {verdict} {report['allowed']:.0%}: {parts}\n"
    )


if __name__ == "__main__":
    main()
