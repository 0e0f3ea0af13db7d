"""Measures the training and inference speed of networks on this machine, once for each network.

The unit is effective multiply-adds per second: those of ``model.profile`` over the wall time of a
whole step. It differs between networks by a factor of ten, so each network is timed.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from kdbench.config.build import build
from kdbench.config.identity import teacher_config
from kdbench.config.stage import FROM_SCRATCH
from kdbench.data.base import Batch
from kdbench.engine.assemble import build_learner
from kdbench.files import write_cache
from kdbench.model.compute import Compute, configure_compute, describe_machine, set_threads
from kdbench.model.profile import count_macs
from kdbench.progress import START
from kdbench.teacher.teacher import Teacher

FILE = "speed.json"
# Multiply-adds of a timed step: a fraction of a second, and enough to keep a GPU busy.
CALIBRATION = {"cpu": 10**10, "cuda": 10**12}
REPEATS = 3  # the fastest counts: noise only ever adds time

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Speed:
    """The cost of a network, and its speed on this machine.

    Attributes:
        macs: multiply-adds of a forward pass of one image.
        train: multiply-adds/s of optimizer steps, with 3 x macs per image.
        forward: multiply-adds/s of forward passes of the frozen network.
    """

    macs: int
    train: float
    forward: float


_FIELDS = {field.name for field in fields(Speed)}


class Speeds:
    """Speeds of networks on this machine, measured on first use and cached.

    Args:
        config: resolved, of any run; sets device, precision, threads, batch size and optimizer.
        note: called with a message before each slow measurement.
    """

    def __init__(self, config: dict[str, Any], note: Callable[[str], None]) -> None:
        run = config["run"]
        self.config, self.note = config, note
        self.threads = set_threads(run["threads"])
        self.compute = configure_compute(config)
        self.machine = describe_machine(self.compute, self.threads)
        self.path = Path(config["paths"]["cache"]) / FILE
        self.known = self._read().get(self.machine, {})

    def of(self, network: Node) -> Speed:
        """The speed of the network that a node of the config describes."""
        name = json.dumps(network, sort_keys=True)
        if self.known.get(name, {}).keys() != _FIELDS:  # unknown, or in an older format
            self.note(f"timing {network['arch']} on this machine, once")
            self.known[name] = asdict(measure(network, self.config, self.compute))
            content = {**self._read(), self.machine: self.known}
            write_cache(self.path, json.dumps(content, indent=1).encode())
        return Speed(**self.known[name])

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):  # missing or damaged: measured again
            return {}


def measure(network: Node, config: Mapping[str, Any], compute: Compute) -> Speed:
    """Times real steps on random images.

    Args:
        network: node of the config.
        config: resolved, of a run; sets the teacher's optimizer and the largest batch size.
        compute: device, precision and memory format.
    """
    channels, size = network["in_channels"], network["image_size"]
    section = {**config["teacher"], "model": dict(network), "recipe": FROM_SCRATCH, "stage": None}
    alone = teacher_config({**config, "teacher": section})
    learner = build_learner(alone, compute)
    teacher = Teacher(build(alone.student), compute, digest="")
    macs = count_macs(teacher.network, channels, size)
    count = max(2, CALIBRATION[compute.device.type] // (3 * macs))
    count = min(count, config["dataset"]["batch_size"])
    images = torch.randn(count, channels, size, size, device=compute.device)
    targets = torch.randint(network["num_classes"], (count,), device=compute.device)
    batch = Batch(images, targets, index=targets, view=None)
    step = time_work(lambda: learner.train_step(batch, {}, START), compute)
    forward = time_work(lambda: teacher(images), compute)
    return Speed(macs, train=3 * macs * count / step, forward=macs * count / forward)


def time_work(work: Callable[[], Any], compute: Compute) -> float:
    """Seconds that ``work`` takes after a warm-up, including work on the device."""
    seconds = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
