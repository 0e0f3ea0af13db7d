"""Folders of runs that were never trained: what kdbench writes, with curves of a known shape."""

import math
import random
from dataclasses import dataclass

from kdbench.digest import file_digest
from kdbench.records.convergence import summarise_convergence
from kdbench.records.record import METRICS, TIMINGS, RunRecord
from kdbench.records.rows import write_metrics

# Strategy -> temperatures (teacher, student) over training, and half the width of their band; the
# fraction of the run that is done goes from 0 to 1.
CURVES = {
    "constant": lambda f: (4, 4, 0),
    "cosine": lambda f: (1 + 7 * (1 + math.cos(math.pi * f)) / 2,) * 2 + (0,),
    "linear": lambda f: (8 - 7 * f,) * 2 + (0,),
    "exponential": lambda f: (8 * 0.125**f,) * 2 + (0,),
    "step": lambda f: (8 / 2 ** int(4 * f),) * 2 + (0,),
    "random": lambda f: (5.5, 5.5, 4),
    "ctkd": lambda f: (1 + 20 / (1 + math.exp(6 * (f - 0.5))),) * 2 + (0.05,),
    "cswt": lambda f: (2 + 4 * f, 2 + 4 * f, 1.5),
    "dtkd": lambda f: (6.5 - f, 1.5 + f, 1.2 - 0.4 * f),
    "atkd": lambda f: (3.2, 3.0 - 0.5 * f, 0.8),
    "logit_std": lambda f: (2 + 4 * (1 - math.exp(-5 * f)), 1 + 3 * f, 0.9),
    "normkd": lambda f: (3.6, 1.2 + 2 * f, 0.7),
    "meta": lambda f: (4 - 2.5 * f**0.5, 4 - 2.5 * f**0.5, 0.02),
    "rlkd": lambda f: (4 + math.sin(9 * f), 4 + math.sin(9 * f), 1.1),
    "ttm": lambda f: (10, 1, 0),
    "wttm": lambda f: (10, 1, 0.0),
    "annealing": lambda f: (10 - 9 * f, 1, 0),
}
PAIRS = ("resnet56_resnet20", "wrn_40_2_wrn_16_2")
ROWS = (("scratch", "none"), *(("kd", name) for name in CURVES), ("dkd", "constant"))


@dataclass(frozen=True)
class Study:
    """What is to be written; a run's numbers depend on its names and its seed alone."""

    rows: tuple = ROWS
    pairs: tuple = PAIRS
    seeds: int = 4
    epochs: int = 40
    dataset: str = "cifar100"
    quantiles: bool = True  # older runs have none


SURVEY = Study()  # every strategy


def write_study(folder, study=SURVEY):
    """Writes every run of a study; returns their folders."""
    return [
        write_run(folder, study, pair, *row, seed)
        for pair in study.pairs
        for row in study.rows
        for seed in range(study.seeds)
    ]


def write_run(folder, study, pair, method, temperature, seed, /, **changes):
    """Writes one run; ``changes`` are fields of its record. Returns its folder."""
    place = folder / study.dataset / pair / f"{method}-{temperature}" / f"seed{seed}"
    (place / ".hydra").mkdir(parents=True)
    rows = list(_epochs(study, pair, method, temperature, seed))
    write_metrics(place / METRICS, rows)
    changes = {"metrics_digest": file_digest(place / METRICS)} | changes
    write_metrics(place / TIMINGS, [_timing(epoch, seed) for epoch in range(study.epochs)])
    fields = _fields(study, pair, method, temperature, seed, rows) | changes
    RunRecord(**fields).write(place)
    return place


def write_trouble(folder, study=SURVEY):
    """Adds a failed run, a damaged record, an unfinished run and damaged metrics."""
    pair, reason = study.pairs[0], "ce, kd not finite at step 71 (ce=nan); try a smaller optim.lr"
    failed = {"status": "failed", "reason": reason, "top1_last": None, "top1_best": None}
    failed |= {"epochs_done": 7, "test": {}, "weights_digest": None}
    write_run(folder, study, pair, "kd", "random", 90, **failed)
    damaged = write_run(folder, study, pair, "kd", "cosine", 91) / "record.json"
    damaged.write_text(damaged.read_text()[:300])
    (write_run(folder, study, pair, "kd", "linear", 92) / "record.json").unlink()
    unread = write_run(folder, study, pair, "kd", "step", 93, metrics_digest=None)
    (unread / METRICS).write_text("epoch,test/top1\n1,?\n")


def _epochs(study, pair, method, temperature, seed):
    chance = random.Random(f"{pair} {method} {temperature} {seed}")
    skill = random.Random(f"{pair} {method} {temperature}").gauss(0, 0.6)
    skill += {"scratch": -3}.get(method, 0) + chance.gauss(0, 0.25)
    speed = random.Random(f"speed {method} {temperature}").uniform(5, 8)
    for epoch in range(study.epochs):
        done = (epoch + 1) / study.epochs
        top1 = (69 + skill) * (1 - math.exp(-speed * done)) * (0.92 if done < 0.75 else 1)
        top1 += chance.gauss(0, 1.2 if done < 0.75 else 0.15)
        row = {
            "epoch": epoch + 1,
            "step": 391 * (epoch + 1),
            "optim/lr": 0.05,
            "train/loss": 4 - done,
        }
        if temperature != "none":
            row |= dict(_temperatures(study, temperature, done, chance))
        yield row | _test(method, max(1.0, top1), done, chance)


def _temperatures(study, name, done, chance):
    *means, width = CURVES.get(name, CURVES["constant"])(done)
    noise = 1 + 0.02 * chance.random() if width else 1
    for who, mean in zip(("teacher", "student"), (mean * noise for mean in means), strict=True):
        yield f"temperature/{who}_mean", float(mean)
        yield f"temperature/{who}_min", max(0.05, mean - 2 * width)
        yield f"temperature/{who}_max", mean + 2 * width
        yield f"temperature/{who}_std", width / 2
        if study.quantiles:
            yield f"temperature/{who}_p5", max(0.1, mean - width)
            yield f"temperature/{who}_p95", mean + width


def _test(method, top1, done, chance):
    found = {"top1": top1, "top5": min(99.0, top1 + 22), "nll": 4.6 - top1 / 20}
    found["ece"] = 12 - 4 * done + chance.gauss(0, 0.4)
    if method != "scratch":
        found |= {"agreement": top1 + 3 + chance.gauss(0, 0.3), "teacher_kl": 2.2 - top1 / 60}
        found["logit_correlation"] = 0.5 + top1 / 200
    return {f"test/{name}": value for name, value in found.items()}


def _timing(epoch, seed):
    seconds = 30 + seed
    timing = {"epoch": epoch + 1, "perf/seconds": seconds, "perf/images_per_s": 50000 / seconds}
    return timing | {"perf/peak_memory_mb": 812.5, "perf/teacher_share": 0.31}


def _fields(study, pair, method, temperature, seed, rows):
    names = {"dataset": study.dataset, "pair": pair, "method": method, "temperature": temperature}
    teacher, student = (
        pair.rsplit("_", 1) if pair.startswith("resnet") else ("wrn_40_2", "wrn_16_2")
    )
    taught = method != "scratch"
    own = {"scratch": "none", "kd": "constant", "dkd": "constant"}.get(method, method)
    differs = {"temperature._target_": ["kdbench.temperature.constant.Constant", temperature]}
    return names | {
        "setting": "published" if temperature == own else "changed",
        "setting_differs": {} if temperature == own else differs,
        "run_key": random.Random(f"{names} {seed}").randbytes(32).hex(),
        "status": "done",
        "reason": None,
        "teacher": teacher if taught else None,
        "student": student,
        "objective": method if taught else "ce",
        "seed": seed,
        "protocol": "paper",
        "precision": "fp32",
        "epochs": study.epochs,
        "epochs_done": study.epochs,
        "top1_last": rows[-1]["test/top1"],
        "top1_best": max(row["test/top1"] for row in rows),
        "val_top1_last": None,
        "val_top1_best": None,
        "test": {k.removeprefix("test/"): v for k, v in rows[-1].items() if k.startswith("test/")},
        "convergence": summarise_convergence(rows, "test/top1"),
        "teacher_top1": 72.34 if taught else None,
        "teacher_digest": "d861d919" * 8 if taught else None,
        "dataset_digest": "d3a33491" * 8,
        "weights_digest": "a67cf326" * 8,
        "metrics_digest": None,
        "parameters": 278324,
        "config": _config(study, temperature, seed, method),
        "seconds": 31.0 * study.epochs + seed,
        **_times(study, temperature, taught, seed),
        "images_per_s": 1612.9 - 10 * seed,
        "peak_memory_mb": 812.5,
        "attempts": 1,
        "cohort_size": study.seeds,
        "teacher_memo": None,
        "device": "cpu",
        "threads": 2,
        "started": f"2026-11-20T06:34:{seed % 60:02d}+00:00",
        "finished": f"2026-11-21T09:12:{seed % 60:02d}+00:00",
        "command": ["kdbench-train", "-m", f"temperature={temperature}", f"seed={seed}"],
        "environment": {
            "python": "3.11.7",
            "versions": {"kdbench": "0.1.0", "torch": "2.15.0"},
            "git": {"commit": "bf240d87" * 5, "dirty": False, "diff_digest": None},
            "platform": "Linux-6.18-x86_64",
            "machine": "x86_64",
            "cores": 2,
            "visible_gpus": None,
        },
    }


def _times(study, temperature, taught, seed):
    own = (4 + len(temperature) / 10) * study.epochs + seed
    shared = (11.0 if taught else 1.5) * study.epochs
    return {
        "own_seconds": own,
        "shared_seconds": shared,
        "part_seconds": own + shared / study.seeds,
        "data_seconds": 1.0 * study.epochs,
        "teacher_seconds": 9.5 * study.epochs if taught else 0.0,
        "evaluation_seconds": 1.0 * study.epochs,
    }


def _config(study, temperature, seed, method):
    return {
        "dataset": {"_target_": "kdbench.data.cifar.Cifar", "name": study.dataset, "epochs": 240},
        "temperature": {"_target_": f"kdbench.temperature.{temperature}", "tau": 4.0},
        "objective": {"_target_": "kdbench.objective.objective.Objective", "ce_weight": 0.1},
        "optim": {"lr": 0.05, "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.9}},
        "run": {"epochs": study.epochs, "protocol": "paper", "precision": "fp32"},
        "seed": seed,
        "method": method,
    }
