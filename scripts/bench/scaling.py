"""Scaling of the cost with learners, classes, image size and samples; and the cost of decoding.

One small table for each: real training steps (or batches) at a few values, the ratio to the first
value, and the ratio expected from the law in the heading. All values of a table take turns, in an
order that is reversed every round; the first round is a warm-up. Ratios are taken within a round,
and the table has their median.

The photographs of --data/imagenet-sample are decoded by kdbench and by torchvision's ImageFolder
with a plain DataLoader, in alternating epochs, including the start of the workers. Then eight runs
that each decode for themselves are compared with a cohort of eight that decodes once.

Networks are untrained and small images are random, because neither changes the cost. All output
goes below --outputs; the result is bench/scaling-<date>.json there.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdbench.config.build import build, build_objective
from kdbench.config.compose import compose_config
from kdbench.data.base import Arrays, Batch, Content, DataModule
from kdbench.data.tensors import TensorData
from kdbench.engine.assemble import open_data
from kdbench.engine.trainer import Trainer
from kdbench.errors import DataError, KdbenchError
from kdbench.files import write_atomic
from kdbench.model.compute import Compute
from kdbench.records.environment import describe_environment
from kdbench.teacher.teacher import Teacher
from scripts.bench.common import (
    Bench,
    advance,
    endless,
    format_table,
    fresh_teacher,
    list_overrides,
    make_parser,
    make_trainer,
    open_bench,
    parse_count,
)
from scripts.bench.sweep import STEPS, count_networks, parse_counts, query_teacher, time_rounds

WORKERS = (0, 1, 2)
COHORT = 8
CLASS_TURNS = 8  # longer turns, because the differences are small
FETCHED = ("first", "epoch")
PHOTO_BATCH = 8  # of the sample's 143, so that two workers have the same number of batches
PHOTO_NETWORK = "timm:test_resnet"  # 0.4 M parameters: larger networks would hide the decoding
SMALL = "resnet20_resnet8"  # small networks, which hide the growth least
COLUMNS = {
    "value": "{value}",
    "median": "{median:.4g}",
    "min-max": "{min:.4g}-{max:.4g}",
    "ratio": "{ratio:.2f}",
    "expected": "{expected:.2f}",
}
DECODE_COLUMNS = {
    "workers": "{workers}",
    "kdbench, images/s": "{kdbench:.1f}",
    "min-max": "{kdbench_min:.1f}-{kdbench_max:.1f}",
    "per core": "{kdbench_per_core:.1f}",
    "torchvision, images/s": "{torchvision:.1f}",
    "min-max ": "{torchvision_min:.1f}-{torchvision_max:.1f}",
    "ratio": "{ratio:.2f}",
    "min-max  ": "{ratio_min:.2f}-{ratio_max:.2f}",
}

Table = dict[str, Any]
Seconds = Mapping[str, float]
Turns = Mapping[str, Callable[[], None]]


@dataclass(frozen=True)
class Scaling:
    """The setup of all tables; ``steps`` is the number of steps of a turn."""

    args: argparse.Namespace
    bench: Bench
    steps: int

    def open(self, *overrides: str) -> Bench:
        """The same benchmark with another config."""
        cfg = compose_config(overrides)
        return replace(self.bench, cfg=cfg, data=open_data(cfg, self.bench.compute))

    def time(
        self, name: str, turns: Turns, steps: Mapping[str, int] | None = None
    ) -> list[dict[str, float]]:
        """Seconds per step of every turn in each round after the warm-up; None: one step each."""
        counts = dict.fromkeys(turns, 1) if steps is None else steps
        rounds = time_rounds(name, turns, 1 + self.args.rounds, 1, self.bench.compute.device)[1:]
        return [{turn: value / counts[turn] for turn, value in r.items()} for r in rounds]


def main(argv: Sequence[str] | None = None) -> None:
    args, now = parse_arguments(argv), datetime.now().astimezone()
    path = args.outputs / "bench" / f"scaling-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        report = {"date": now.isoformat(timespec="seconds"), **measure(args)}
        write_atomic(path, json.dumps(report, indent=1).encode())
    except KdbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("", *map(describe, report["tables"]), path, sep="\n")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.set_defaults(dataset="fake")
    parser.add_argument("--only", type=parse_names, default=",".join(TABLES), help="which tables")
    parser.add_argument("--pair", default="resnet56_resnet20", help="of the learners")
    parser.add_argument("--learners", type=parse_counts, default="1,2,4,8")
    parser.add_argument("--classes", type=parse_counts, default="10,100,300,1000")
    parser.add_argument("--sizes", type=parse_counts, default="32,48,64,96", help="in pixels")
    parser.add_argument("--samples", type=parse_counts, default="5000,10000,20000,50000")
    parser.add_argument("--steps", type=parse_count, help=f"of a turn; default {STEPS}")
    parser.add_argument("--rounds", type=parse_count, default=5, help="without the warm-up")
    return parser.parse_args(argv)


def parse_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in TABLES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} must be one of {', '.join(TABLES)}")
    return names


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The tables, and their circumstances."""
    bench = open_bench(list_overrides(args), args.pair)
    steps = args.steps or STEPS[bench.compute.device.type]
    scaling = Scaling(args, bench, steps)
    if "decode" in args.only:
        photo_overrides(scaling, workers=0)  # reports a missing folder now, not after minutes
    circumstances = {**bench.circumstances, "steps": steps, "rounds": args.rounds}
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    tables = [table for name in args.only for table in TABLES[name](scaling)]
    return {**circumstances, "environment": describe_environment(), "tables": tables}


def measure_learners(scaling: Scaling) -> Iterator[Table]:
    counts, pair = sorted({1, *scaling.args.learners}), scaling.args.pair
    overrides, bench = [*list_overrides(scaling.args), f"pair={pair}"], scaling.bench
    cfgs = [compose_config([*overrides, f"seed={i}"]) for i in range(counts[-1])]
    teacher, batches = prepare_teacher(replace(bench, cfg=cfgs[0]), scaling.steps)
    # Turns of about equal length, because the first step of a turn is slow.
    steps = {"teacher": counts[-1]} | {str(n): counts[-1] // n for n in counts}
    turns = {"teacher": partial(query_teacher, teacher, batches * steps["teacher"])}
    for n in counts:
        trainer = make_trainer(teacher, cfgs[:n], bench)
        turns[str(n)] = partial(advance, trainer, batches * steps[str(n)])
    rounds = scaling.time("learners", turns, {t: scaling.steps * k for t, k in steps.items()})
    forward, single = (median(r[name] for r in rounds) for name in ("teacher", "1"))
    title = f"Learners: a step of N learners of {pair}, seconds"
    law = "T + N S; T is the teacher alone, T + S the step of one learner"
    costs = {str(n): cohort_cost(n, forward, single) for n in counts}
    yield make_table(title, law, rounds, costs) | {"teacher_seconds": forward}


def prepare_teacher(bench: Bench, steps: int) -> tuple[Teacher, list[Batch]]:
    """A teacher and the batches of a turn."""
    batches = list(islice(endless(bench.data), steps))
    network = fresh_teacher(bench.cfg, batches[0], bench.compute)
    return Teacher(network, bench.compute, digest=""), batches


def cohort_cost(learners: int, teacher: float, single: float) -> float:
    """Cost of a step of a cohort, from that of a teacher forward pass and of a single step."""
    return teacher + learners * (single - teacher)


def measure_classes(scaling: Scaling) -> Iterator[Table]:
    classes = [str(k) for k in scaling.args.classes]
    singles = [prepare_single(scaling, f"dataset.num_classes={k}", CLASS_TURNS) for k in classes]
    cfgs = [cfg for cfg, _ in singles]
    turns = dict(zip(classes, (turn for _, turn in singles), strict=True))
    compute, steps = scaling.bench.compute, CLASS_TURNS * scaling.steps
    turns["loss"] = partial(repeat, make_loss(cfgs[-1], compute), steps)
    rounds = scaling.time("classes", turns, dict.fromkeys(turns, steps))
    step, loss = (median(r[name] for r in rounds) for name in (classes[0], "loss"))
    macs = [teacher + 3 * student for teacher, student in map(count_networks, cfgs)]
    elements = [count_elements(make_loss(cfg, compute)) for cfg in cfgs]
    title = f"Classes: a step at K classes ({SMALL}), seconds"
    law = (
        "constant + a K; the cost per multiply-add of the networks is that in the first row, the "
        "cost per element of the loss that in the loss of the last row"
    )
    costs = dict(zip(classes, class_costs(macs, elements, step, loss), strict=True))
    table = make_table(title, law, rounds, costs)
    yield table | {"macs": macs, "loss_elements": elements, "loss_seconds": loss}


def prepare_single(
    scaling: Scaling, override: str, times: int
) -> tuple[DictConfig, Callable[[], None]]:
    """The config of a small run, and a turn that is ``times`` as long as usual."""
    bench = scaling.open(*list_overrides(scaling.args), f"pair={SMALL}", override)
    teacher, batches = prepare_teacher(bench, scaling.steps)
    trainer = make_trainer(teacher, [bench.cfg], bench)
    return bench.cfg, partial(advance, trainer, batches * times)


def class_costs(
    macs: Sequence[int], elements: Sequence[int], step: float, loss: float
) -> list[float]:
    """Expected seconds of a step at each number of classes.

    Args:
        macs: multiply-adds of the networks at each of them.
        elements: computed by the loss, forward and backward, at each of them.
        step: measured seconds of a step at the first of them.
        loss: measured seconds of only the loss at the last of them.
    """
    price = loss / elements[-1]
    return [
        step * m / macs[0] + price * (e - elements[0]) for m, e in zip(macs, elements, strict=True)
    ]


def make_loss(cfg: DictConfig, compute: Compute) -> Callable[[], None]:
    """The objective of a batch, forward and backward, on random logits."""
    shape = (cfg.dataset.batch_size, cfg.dataset.num_classes)
    objective = build_objective(cfg).to(compute.device)
    teacher = torch.randn(shape, device=compute.device)
    student = torch.randn(shape, device=compute.device, requires_grad=True)
    targets = torch.zeros(shape[0], dtype=torch.long, device=compute.device)
    return lambda: objective.from_logits(teacher, student, targets).total().backward()


class ElementCounter(TorchDispatchMode):
    """Counts the elements of all computed tensors, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts the elements of its outputs."""
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.elements += sum(t.numel() for t in tree_leaves(made) if isinstance(t, Tensor))
        return made


def count_elements(work: Callable[[], None]) -> int:
    with ElementCounter() as counter:
        work()
    return counter.elements


def repeat(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()


def measure_sizes(scaling: Scaling) -> Iterator[Table]:
    sizes = scaling.args.sizes
    times = {size: (sizes[-1] // size) ** 2 for size in sizes}
    turns = {
        str(size): prepare_single(scaling, f"dataset.image_size={size}", k)[1]
        for size, k in times.items()
    }
    steps = {str(size): scaling.steps * k for size, k in times.items()}
    rounds = scaling.time("image size", turns, steps)
    title = f"Image size: a step at images of H x H pixels ({SMALL}), seconds"
    costs = {str(size): size**2 for size in sizes}
    yield make_table(title, "proportional to H x W", rounds, costs)


def measure_samples(scaling: Scaling) -> Iterator[Table]:
    data = {str(n): open_samples(scaling.bench, n) for n in scaling.args.samples}
    memory = {n: memory_mb(each) for n, each in data.items()}
    turns = {f"first {n}": partial(take, data[n], 1) for n in data}
    turns |= {f"epoch {n}": partial(take, data[n], None) for n in data}
    rounds = scaling.time("dataset size", turns)
    first, epoch = ([{n: r[f"{what} {n}"] for n in data} for r in rounds] for what in FETCHED)
    further = [
        {n: (e[n] - f[n]) / max(data[n].steps_per_epoch - 1, 1) for n in data}
        for f, e in zip(first, epoch, strict=True)
    ]
    growth, constant = {n: int(n) for n in data}, dict.fromkeys(data, 1)
    law, affine = "proportional to N", "constant + a N, so at most proportional to N"
    for what, words, measured, costs in (
        ("all batches of an epoch, seconds", law, epoch, growth),
        ("order and first batch of an epoch, seconds", affine, first, growth),
        ("each further batch, seconds", "constant", further, constant),
        ("memory, MB", f"the test images + a N, so nearly {law}", [memory], growth),
    ):
        yield make_table(f"Dataset size: N images, {what}", words, measured, costs)


def open_samples(bench: Bench, count: int) -> TensorData:
    """Training data of any size, with repeated images."""
    dataset, device = build(bench.cfg.dataset), bench.compute.device
    train, test, names = dataset.read()
    some = np.arange(count) % len(train.targets)
    content = Content(Arrays(train.images[some], train.targets[some]), test, names)
    return TensorData(
        content, dataset, dataset.crop_flip, digest="", device=device, data_seed=0, protocol="paper"
    )


def memory_mb(data: TensorData) -> float:
    """Memory of the tensors of the data, without counting views twice."""
    tensors = [value for value in vars(data).values() if isinstance(value, Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / 1e6


def take(data: DataModule | TensorData, count: int | None) -> None:
    """Loads the first batches of an epoch; None for all of them."""
    for _ in islice(data.train_batches(epoch=0), count):
        pass


def measure_decode(scaling: Scaling) -> Iterator[Table]:
    yield measure_loaders(scaling)
    yield measure_sharing(scaling)


def measure_loaders(scaling: Scaling) -> Table:
    """Images per second in an epoch of photographs, kdbench against torchvision."""
    turns = {}
    for workers in WORKERS:
        bench = scaling.open(*photo_overrides(scaling, workers))
        turns[f"kdbench {workers}"] = partial(take, bench.data, None)
        plain = plain_loader(bench.cfg.dataset, bench.compute.device)
        turns[f"torchvision {workers}"] = partial(take_plain, plain, bench.compute.device)
    rounds = scaling.time("decode", turns)
    images, size = bench.data.num_train, bench.cfg.dataset.image_size
    return {
        "title": f"Photographs: decoding and transforming to {size} x {size}, images/s",
        "law": "the same as torchvision; proportional to the workers, up to the cores",
        "columns": DECODE_COLUMNS,
        "images": images,
        "rows": [summarize_loaders(workers, images, rounds) for workers in WORKERS],
    }


def summarize_loaders(workers: int, images: int, rounds: Sequence[Seconds]) -> dict[str, Any]:
    """One row: rates of both loaders and their ratio per round; > 1 if kdbench is faster."""
    row: dict[str, Any] = {"workers": workers}
    names = ("kdbench", "torchvision")
    rates = {name: [images / seconds[f"{name} {workers}"] for seconds in rounds] for name in names}
    rates["ratio"] = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    for name, values in rates.items():
        row |= {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    cores = min(max(workers, 1), len(os.sched_getaffinity(0)))
    return row | {"kdbench_per_core": row["kdbench"] / cores, "rounds": rates}


def measure_sharing(scaling: Scaling) -> Table:
    """Eight runs that each decode for themselves against a cohort of eight that decodes once."""
    overrides = [
        *photo_overrides(scaling, workers=0),
        "method=scratch",
        "student=timm",
        f"student.arch={PHOTO_NETWORK}",
    ]
    bench = scaling.open(*overrides)
    cfgs = [compose_config([*overrides, f"seed={i}"]) for i in range(COHORT)]
    singles = [make_trainer(None, [cfg], bench) for cfg in cfgs]
    cohort = make_trainer(None, cfgs, bench)
    alone, together = f"{COHORT} single runs", f"cohort of {COHORT}"
    turns = {
        "decode": partial(take, bench.data, 1),
        alone: partial(decode_and_train, singles),
        together: partial(decode_and_train, [cohort]),
    }
    rounds = scaling.time("decode once", turns)
    decode, apart = (median(r[name] for r in rounds) for name in ("decode", alone))
    title = (
        f"Decode once: a step of {COHORT} runs of {PHOTO_NETWORK}, batches of {PHOTO_BATCH} "
        f"photographs, seconds"
    )
    saved = median(r[alone] - r[together] for r in rounds)
    law = (
        f"N (D + S) against D + N S; decoding without workers takes D = {decode:.3g} s, so "
        f"{(COHORT - 1) * decode:.3g} s should be saved, measured {saved:.3g} s"
    )
    costs = {alone: apart, together: apart - (COHORT - 1) * decode}
    table = make_table(title, law, rounds, costs)
    return table | {"decode_seconds": decode, "saved_seconds": saved}


def decode_and_train(trainers: Sequence[Trainer]) -> None:
    """One step of all; each trainer loads its own batch."""
    for trainer in trainers:
        advance(trainer, islice(trainer.data.train_batches(epoch=0), 1))


def photo_overrides(scaling: Scaling, workers: int) -> list[str]:
    """ImageNet's recipe on the sample; DataError if that is missing."""
    folder = scaling.args.data / "imagenet-sample"
    if not folder.is_dir():
        raise DataError(
            f"{folder} with class folders of photographs is missing; set --data, or leave out "
            f"decode with --only"
        )
    classes = sum(entry.is_dir() and entry.name[0] != "." for entry in folder.iterdir())
    return [
        *list_overrides(argparse.Namespace(**vars(scaling.args) | {"dataset": "imagenet"})),
        f"dataset.root='{folder}'",
        "dataset.train_dir=.",
        "dataset.val_dir=.",
        f"dataset.num_classes={classes}",
        f"dataset.batch_size={PHOTO_BATCH}",
        f"dataset.workers={workers}",
    ]


def plain_loader(dataset: DictConfig, device: torch.device) -> DataLoader:
    """The same recipe, as usual with torchvision."""
    recipe = dataset.augmentation
    crop = transforms.RandomResizedCrop(
        dataset.image_size, scale=tuple(recipe.crop_scale), ratio=tuple(recipe.crop_ratio)
    )
    flip, pixels = transforms.RandomHorizontalFlip(), transforms.ToTensor()
    normalise = transforms.Normalize(list(dataset.mean), list(dataset.std))
    return DataLoader(
        ImageFolder(dataset.root, transforms.Compose([crop, flip, pixels, normalise])),
        batch_size=dataset.batch_size,
        shuffle=True,
        num_workers=dataset.workers,
        pin_memory=device.type == "cuda",
    )


def take_plain(loader: DataLoader, device: torch.device) -> None:
    for images, targets in loader:
        images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def make_table(
    title: str, law: str, rounds: Sequence[Mapping[str, float]], costs: Mapping[str, float]
) -> Table:
    """A table of measured and expected costs.

    Args:
        title: with the unit.
        law: the expected growth, in words.
        rounds: measured cost at each value, for each round.
        costs: expected cost at each value, in any unit; the first is the reference.
    """
    reference = next(iter(costs))
    rows = []
    for value, cost in costs.items():
        measured = [each[value] for each in rounds]
        row = {"value": value, "median": median(measured)}
        row |= {"min": min(measured), "max": max(measured)}
        row["ratio"] = median(each[value] / each[reference] for each in rounds)
        rows.append(row | {"expected": cost / costs[reference], "rounds": measured})
    return {"title": title, "law": law, "columns": COLUMNS, "rows": rows}


def describe(table: Table) -> str:
    body = format_table(table["columns"], table["rows"])
    return f"{table['title']}. Law: {table['law']}.\n\n{body}\n"


TABLES: dict[str, Callable[[Scaling], Iterator[Table]]] = {
    "learners": measure_learners,
    "classes": measure_classes,
    "image_size": measure_sizes,
    "dataset_size": measure_samples,
    "decode": measure_decode,
}

if __name__ == "__main__":
    main()
