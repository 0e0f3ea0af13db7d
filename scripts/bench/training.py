"""kdbench against the usual training loop, on this machine and with the same work.

Two sides, in separate processes: scripts/bench/field_loop.py with its fastest number of DataLoader
workers, and kdbench (scripts/bench/serve.py) as one run, as a cohort of 8 methods, and as this
cohort with all teacher logits cached. Only one runs at a time: they take turns in an order that is
reversed every round. A ratio compares the times per step within a round; eight runs of the usual
loop take eight times as long as one. The time of kdbench includes data loading, meters and checks,
but no checkpoints.

Also measured: data loading, against a DataLoader with 2 workers; the time from the command to the
end of the first step with the caches of an earlier run (including the check of the teacher on the
test set; killed after the step), alternating with `import torch` and with a run without a teacher;
the peak memory of a cohort in its own process; and the share of a step outside convolutions, linear
layers and batch norm (scripts/bench/profile_step.py).

Values are medians over the rounds. All output goes below --outputs; the result is
bench/bench-<date>.json there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from signal import SIGKILL
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Self

from omegaconf import DictConfig

from kdbench import fault
from kdbench.errors import KdbenchError
from kdbench.files import write_atomic
from kdbench.records.environment import describe_environment
from scripts.bench.common import (
    PAIRS,
    ROOT,
    Bench,
    format_table,
    list_overrides,
    make_parser,
    open_bench,
    parse_count,
    save_teacher,
)

SCRIPTS = Path(__file__).parent
LOADER_WORKERS = 2  # of the DataLoader in the comparison of data loading
COLUMNS = {
    "what": "{what}",
    "pair": "{pair}",
    "measured": "{measured}",
    "min-max": "{span}",
    "target": "{goal}",
    "": "{verdict}",
}


@dataclass(frozen=True)
class What:
    """A row of the table.

    Attributes:
        text: name of the row.
        form: format of its values.
        least: whether targets are lower or upper limits.
        targets: by pair, on two CPU cores; "" for any pair.
    """

    text: str
    form: str
    least: bool
    targets: Mapping[str, float]


SMALL, WIDE = PAIRS.split(",")
TABLE = {
    "single": What("one run, x", "{:.2f}", True, {SMALL: 3.0, WIDE: 3.0}),
    "cohort": What("sweep of {learners}, x", "{:.2f}", True, {SMALL: 5.0, WIDE: 6.5}),
    "memo": What("the same, cached logits, x", "{:.2f}", True, {SMALL: 6.0, WIDE: 9.0}),
    "batches": What("data loading, x", "{:.1f}", True, {"": 20.0}),
    "start": What("start to first step, s", "{:.2f}", False, {"": 6.0}),
    "above": What("- above `import torch`, s", "{:.2f}", False, {"": 2.0}),
    "scratch": What("- without a teacher, s", "{:.2f}", False, {}),
    "memory": What("peak of a cohort of {learners}, MB", "{:.0f}", False, {SMALL: 2500}),
    "outside": What("outside conv., linear, norm, %", "{:.1f}", False, {SMALL: 15, WIDE: 15}),
}


class Player:
    """A process that runs commands from its standard input."""

    def __init__(self, script: str, arguments: Sequence[str]) -> None:
        self.script = script
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def request(self, line: str) -> dict[str, Any]:
        """Sends a command and returns the reply; ends the benchmark if there is none."""
        try:
            print(line, file=self._input)
            return json.loads(self._output.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.kill()
            raise SystemExit(f"{self.script} did not reply to {line!r}; see above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(BrokenPipeError):
            self._input.close()  # ends it, like `quit`
        self._process.wait()
        self._output.close()


@dataclass(frozen=True)
class Match:
    """A pair, and how to start both sides for it."""

    args: argparse.Namespace
    bench: Bench
    pair: str
    cfg: DictConfig
    weights: Path

    def field(self, workers: int) -> Player:
        """The usual loop with this number of DataLoader workers."""
        cfg, bench = self.cfg, self.bench
        # The cache file of SmallDataset.open.
        name = f"{cfg.dataset.name}-{bench.data.digest[:12]}.safetensors"
        arguments = [
            f"--data={Path(cfg.paths.cache) / 'datasets' / name}",
            f"--classes={cfg.dataset.num_classes}",
            f"--batch-size={cfg.dataset.batch_size}",
            f"--teacher={cfg.teacher.model.arch}",
            f"--weights={self.weights}",
            f"--student={cfg.student.arch}",
            f"--workers={workers}",
            f"--threads={bench.threads}",
            f"--device={bench.compute.device}",
            "--mean",
            *map(str, cfg.dataset.mean),
            "--std",
            *map(str, cfg.dataset.std),
        ]
        return Player("field_loop.py", arguments)

    def kdbench(self, work: str) -> Player:
        """One of ``Work.KINDS``."""
        arguments = [
            f"--work={work}",
            f"--pair={self.pair}",
            f"--learners={self.args.learners}",
            f"--weights={self.weights}",
            f"--threads={self.bench.threads}",
            *(
                f"--{name}={getattr(self.args, name)}"
                for name in ("device", "precision", "dataset", "data", "outputs")
            ),
        ]
        if self.args.override:
            arguments += ["--override", *self.args.override]
        return Player("serve.py", arguments)


def main(argv: Sequence[str] | None = None) -> None:
    args, now = parse_arguments(argv), datetime.now().astimezone()
    path = args.outputs / "bench" / f"bench-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=path.parent) as folder:
            report = {"date": now.isoformat(timespec="seconds"), **measure(args, Path(folder))}
        write_atomic(path, json.dumps(report, indent=1).encode())
    except KdbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("", format_table(COLUMNS, list(map(describe, report["rows"]))), "", path, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--learners", type=parse_count, default=8, help="runs of the cohort")
    parser.add_argument("--rounds", type=parse_count, default=5, help="also of the starts")
    parser.add_argument("--seconds", type=float, default=4.0, help="approximate, of a turn")
    parser.add_argument("--profiled", type=parse_count, default=10, help="number of steps")
    parser.add_argument(
        "--workers",
        type=parse_workers,
        help="of the DataLoader: numbers to try; default: 0,1,2,4 ... cores",
    )
    return parser.parse_args(argv)


def parse_workers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def list_workers() -> list[int]:
    """0, 1, 2, 4, ... up to the cores of this process, and at least up to 2."""
    cores = max(len(os.sched_getaffinity(0)), 2)
    return [0, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The rows of the table, and their circumstances."""
    overrides = list_overrides(args)
    bench = open_bench(overrides, args.pairs)
    circumstances = {
        **bench.circumstances,
        "learners": args.learners,
        "rounds": args.rounds,
        "turn_seconds": args.seconds,
        "override": args.override,
    }
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    matches = [
        Match(args, bench, pair, *save_teacher(pair, bench, overrides, folder))
        for pair in args.pairs.split(",")
    ]
    workers: dict[str, dict[int, float]] = {}
    rows = []
    for match in matches:
        workers[match.pair] = try_workers(match)
        rows += compare_training(match, best_of(workers[match.pair]))
    rows += compare_batches(matches[0])
    rows += time_starts(matches[0], folder)
    return {
        **circumstances,
        "workers": workers,
        "environment": describe_environment(),
        "rows": rows,
    }


def try_workers(match: Match) -> dict[int, float]:
    """Seconds per step of the usual loop by its number of DataLoader workers."""
    tried = {}
    for number in match.args.workers or list_workers():
        with match.field(number) as player:
            work = partial(turn, player, "steps")
            steps = count_steps(work, match.args.seconds)
            tried[number] = work(steps) / steps
        print(f"{match.pair}, field, {number} workers: {tried[number]:.4f} s/step", flush=True)
    return tried


def best_of(workers: Mapping[int, float]) -> int:
    return min(workers, key=workers.__getitem__)


def compare_training(match: Match, workers: int) -> list[dict[str, Any]]:
    """The rows of a pair."""
    learners, kinds = match.args.learners, ("single", "cohort", "memo")
    with ExitStack() as stack:
        players = {"field": stack.enter_context(match.field(workers))}
        players |= {kind: stack.enter_context(match.kdbench(kind)) for kind in kinds}
        work = {name: partial(turn, player, "steps") for name, player in players.items()}
        rounds = race(match.pair, work, match.args)
        memory = players["cohort"].request("memory")["megabytes"]
        profiled = players["single"].request(f"profile {match.args.profiled}")
    rows = [
        summarize(
            kind,
            match,
            [(1 if kind == "single" else learners) * r["field"] / r[kind] for r in rounds],
            seconds={side: [r[side] for r in rounds] for side in ("field", kind)},
        )
        for kind in kinds
    ]
    rows.append(summarize("memory", match, [memory]))
    rows.append(summarize("outside", match, [100 * profiled["outside"]], profile=profiled))
    return rows


def compare_batches(match: Match) -> list[dict[str, Any]]:
    with match.field(LOADER_WORKERS) as field, match.kdbench("batches") as ours:
        work = {"field": partial(turn, field, "batches"), "batches": partial(turn, ours, "steps")}
        rounds = race("batches", work, match.args)
    ratios = [r["field"] / r["batches"] for r in rounds]
    seconds = {side: [r[side] for r in rounds] for side in work}
    return [summarize("batches", match, ratios, seconds=seconds)]


def turn(player: Player, command: str, steps: int) -> float:
    return player.request(f"{command} {steps}")["seconds"]


def race(
    title: str, work: Mapping[str, Callable[[int], float]], args: argparse.Namespace
) -> list[dict[str, float]]:
    """Seconds per step of all sides in each round."""
    steps = {name: count_steps(do, args.seconds) for name, do in work.items()}
    rounds = []
    for number in range(args.rounds):
        order = list(work) if number % 2 == 0 else list(work)[::-1]
        rounds.append({name: work[name](steps[name]) / steps[name] for name in order})
        times = ", ".join(f"{name} {rounds[-1][name]:.4f}" for name in work)
        print(f"{title}, round {number + 1} of {args.rounds}: {times} s/step", flush=True)
    return rounds


def count_steps(work: Callable[[int], float], seconds: float) -> int:
    """Number of steps that take about this time; finding it is also a warm-up."""
    steps = 3
    while (took := work(steps)) < seconds / 10:
        steps *= 4
    return max(1, round(steps * seconds / took))


def time_starts(match: Match, folder: Path) -> list[dict[str, Any]]:
    """Seconds from the command to the end of the first step."""
    train = [
        *(sys.executable, "-m", "kdbench.cli.train"),
        *list_overrides(match.args),
        f"pair={match.pair}",
        f"paths.outputs='{folder}'",
        f"paths.cache='{match.cfg.paths.cache}'",
        f"run.threads={match.bench.threads}",
    ]
    # The teacher is untrained, so expect nothing of its check.
    teacher = ["method=kd", f"teacher.weights='{match.weights}'", "teacher.expected_top1=0"]
    commands = {
        "import": [sys.executable, "-c", "import torch"],
        "start": [*train, *teacher],
        "scratch": [*train, "method=scratch"],
    }
    rounds = []
    for number in range(1 + match.args.rounds):  # the first fills the caches
        order = list(commands) if number % 2 == 0 else list(commands)[::-1]
        rounds.append({name: time_process(commands[name]) for name in order})
        times = ", ".join(f"{name} {rounds[-1][name]:.2f} s" for name in commands)
        print(f"start, round {number} of {match.args.rounds}: {times}", flush=True)
    return list(summarize_starts(match, rounds[1:]))


def summarize_starts(
    match: Match, rounds: Sequence[Mapping[str, float]]
) -> Iterator[dict[str, Any]]:
    seconds = {name: [r[name] for r in rounds] for name in rounds[0]}
    yield summarize("start", match, seconds["start"], seconds=seconds)
    yield summarize("above", match, [r["start"] - r["import"] for r in rounds])
    yield summarize("scratch", match, seconds["scratch"])


def time_process(command: Sequence[str]) -> float:
    """Seconds until a process ends, or kills itself after its first step."""
    environment = {**os.environ, fault.VARIABLE: "step:1"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode not in (0, -SIGKILL):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return took


def summarize(kind: str, match: Match, values: Sequence[float], **details: Any) -> dict[str, Any]:
    what, value = TABLE[kind], median(values)
    target = what.targets.get(match.pair, what.targets.get(""))
    met = None if target is None else value >= target if what.least else value <= target
    return {
        "kind": kind,
        "what": what.text.format(learners=match.args.learners),
        "pair": match.pair,
        "value": value,
        "min": min(values),
        "max": max(values),
        "values": list(values),
        "target": target,
        "met": met,
        **details,
    }


def describe(row: Mapping[str, Any]) -> dict[str, str]:
    what = TABLE[row["kind"]]
    sign, target = ">=" if what.least else "<=", row["target"]
    return {
        "what": row["what"],
        "pair": row["pair"],
        "measured": what.form.format(row["value"]),
        "span": "-".join(what.form.format(row[end]) for end in ("min", "max")),
        "goal": "" if target is None else f"{sign} {target:g}",
        "verdict": {True: "met", False: "not met", None: ""}[row["met"]],
    }


if __name__ == "__main__":
    main()
