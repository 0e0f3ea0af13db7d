"""One side of scripts/bench/training.py: kdbench in its own process.

It reads commands from standard input and replies to each with a line of JSON:

    steps N      N training steps, including data loading; {"seconds": ...}
    memory       peak memory of training and evaluation; {"megabytes": ...}
    profile N    time of a step by kind: see scripts/bench/profile_step.py
    quit

For --work=batches a step is a batch. The other side is scripts/bench/field_loop.py.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.bench.common import Work, list_overrides, make_parser, parse_count
from scripts.bench.profile_step import profile


def main(argv: Sequence[str] | None = None) -> None:
    for reply in serve(parse_arguments(argv), sys.stdin):
        print(json.dumps(reply), flush=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--work", choices=Work.KINDS, required=True)
    parser.add_argument("--pair", required=True)
    parser.add_argument("--learners", type=parse_count, required=True, help="runs of a cohort")
    parser.add_argument("--weights", type=Path, required=True, help="of the teacher")
    return parser.parse_args(argv)


def serve(args: argparse.Namespace, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Runs each command and yields its result."""
    work = Work(args.work, args.pair, args.learners, args.weights, list_overrides(args))
    for line in lines:
        if line.strip() == "quit":
            break
        command, *number = line.split()
        if command == "steps":
            yield {"seconds": work.seconds(*map(int, number))}
        elif command == "memory":
            yield {"megabytes": work.peak_memory_mb()}
        elif command == "profile":
            yield profile(work, *map(int, number))
        else:
            raise SystemExit(f"{line!r}: use steps N, memory, profile N or quit")


if __name__ == "__main__":
    main()
