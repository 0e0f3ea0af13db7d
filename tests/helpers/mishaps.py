"""What goes wrong, for the table of ``bad_inputs.py``: files, circumstances, and what must be left.

A preparation makes files in a place and gives the command further arguments; a patch changes the
process; a check looks at what was left.
"""

import io
import json
import os
import pickle
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.harness import TINY

SECRET = "canary-0123456789"


@dataclass
class Place:
    """Where a case happens."""

    folder: Path
    arguments: list[str] = field(default_factory=list)  # further ones, from what was prepared

    @property
    def outputs(self):
        return self.folder / "out"

    @property
    def run(self):
        """Where runs are whose folder the case must know."""
        return self.folder / "run"

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def give(self, *arguments):
        self.arguments += arguments


def yaml(name, text):
    def prepare(place):
        place.write(f"conf/{name}", text)
        place.give("--config-dir", str(place.folder / "conf"))

    return prepare


def resnet(arch="resnet8", num_classes=10, change=lambda state: state):
    """The bytes of a weight file."""
    import torch

    from kdbench.model.load import load_model

    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save(change(load_model(arch, num_classes).state_dict()), buffer)
    return buffer.getvalue()


def teacher(content, *more):
    """A teacher's file; ``content`` is bytes, or makes them."""

    def prepare(place):
        data = content() if callable(content) else content
        place.give(f"teacher.weights={place.write('teacher.pth', data)}", *more)

    return prepare


def with_nan(state):
    state["fc.bias"][0] = float("nan")
    return state


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def whole_module():
    import torch

    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    return buffer.getvalue()


def malicious_teacher(place):
    import torch

    buffer = io.BytesIO()
    torch.save({"model": Payload(place.folder / "marker")}, buffer)
    place.give(f"teacher.weights={place.write('teacher.pth', buffer.getvalue())}")


def no_marker(place, said):
    assert not (place.folder / "marker").exists()


def images(place, split="train", classes=10, size=32, root="data/cifar10"):
    from PIL import Image

    for number in range(classes):
        path = place.folder / root / split / f"class{number}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (size, size), (20 * number, 0, 0)).save(path)


def folders(change=lambda place: None, **options):
    """CIFAR-10 as class folders, with a mistake in it."""

    def prepare(place):
        for split in ("train", "test"):
            images(place, split, **options)
        change(place)
        place.give(f"paths.data={place.folder / 'data'}")

    return prepare


def first_image(content):
    return lambda place: place.write("data/cifar10/train/class0/0.png", content)


def empty_class(place):
    (place.folder / "data/cifar10/train/class3/0.png").unlink()


def another_class(place):
    (place.folder / "data/cifar10/test/class3").rename(place.folder / "data/cifar10/test/other")


def wrong_label(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images(place)
    picture = (place.folder / "data/cifar10/train/class0/0.png").read_bytes()
    for split in ("train", "test"):
        rows = {"img": [{"bytes": picture, "path": None}] * 3, "label": [0, 12, 1]}
        pq.write_table(pa.table(rows), place.folder / f"data/{split}-00000.parquet")
    (place.folder / "data/cifar10").rename(place.folder / "elsewhere")
    place.give(f"paths.data={place.folder / 'data'}")


def replaced_pickles(place):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        content = pickle.dumps(Payload(place.folder / "marker"))
        place.write(f"data/cifar-10-batches-py/{name}", content)
    place.give(f"paths.data={place.folder / 'data'}")


def archive(place):
    place.write("data/cifar-10-python.tar.gz", b"half of an archive")
    place.give(f"paths.data={place.folder / 'data'}")


def archive_is_kept(place, said):
    assert (place.folder / "data/cifar-10-python.tar.gz").read_bytes() == b"half of an archive"


def train(place, *arguments):
    """A run that is done, in ``place.run``."""
    from kdbench.config.compose import compose_config
    from kdbench.engine.run import train_job

    base = [*TINY, "run.epochs=1", "method=scratch", f"paths.outputs={place.outputs}"]
    cfg = compose_config([*base, *arguments])
    train_job(cfg, place.run)
    place.give("run.epochs=1", "method=scratch", f"hydra.run.dir={place.run}")


def unfinished(*arguments):
    """The same, but for its last steps."""

    def prepare(place):
        train(place, *arguments)
        (place.run / "record.json").unlink()
        (place.run / "student.safetensors").unlink()

    return prepare


def newer_checkpoints(place):
    import hashlib

    import torch

    unfinished()(place)
    for manifest in (place.run / "checkpoint").glob("step*.json"):
        path = manifest.with_suffix(".pt")
        state = torch.load(path, weights_only=True)
        torch.save({**state, "schema": 99}, path)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest.write_text(json.dumps({"bytes": len(content), "sha256": digest}))


def damaged_checkpoints(place):
    unfinished()(place)
    for path in (place.run / "checkpoint").glob("step*.pt"):
        path.write_bytes(b"damaged")


def flipped_teacher(place):
    from kdbench.config.compose import compose_config
    from kdbench.engine.run import obtain_teacher_file

    cfg = compose_config([*TINY, f"paths.outputs={place.outputs}"])
    path, _ = obtain_teacher_file(cfg)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def held(place):
    from kdbench.records.lock import run_lock

    place.lock = run_lock(place.run)  # for as long as the place is there
    place.lock.__enter__()
    place.give(f"hydra.run.dir={place.run}")


def reports(*changes):
    """Two runs that are done, the first one's record with a change, and a report of both."""

    def prepare(place):
        from tests.records.test_record import make_record

        for number in range(2):
            folder = place.folder / "runs" / str(number)
            folder.mkdir(parents=True)
            make_record(run_key=f"{number:064x}", seed=number).write(folder)
        path = place.folder / "runs" / "0" / "record.json"
        for old, new in changes:
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        place.give(str(place.folder / "runs"))

    return prepare


def wandb_with(**variables):
    def patch(monkeypatch):
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("NETRC", "/nowhere/netrc")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return patch


def lost_in_the_middle(monkeypatch):
    import wandb

    def fail(*_, **__):
        raise OSError("socket is gone")

    wandb_with(WANDB_MODE="offline")(monkeypatch)
    monkeypatch.setattr(wandb.Run, "log", fail)


def all_epochs_are_there(place, said):
    (metrics,) = place.outputs.glob("runs/**/metrics.csv")
    assert len(metrics.read_text().splitlines()) == 1 + 3
    assert said.count("W&B log failed") == 1


def full_disk(monkeypatch):
    import errno

    import kdbench.files as files

    write, count = files._write_new, [0]

    def fail(path, payload):
        if path.name.startswith(".step"):
            count[0] += 1
            if count[0] > 2:  # after the first checkpoint and its manifest
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, payload)

    monkeypatch.setattr(files, "_write_new", fail)


def checkpoint_is_kept(place, said):
    (manifest,) = place.outputs.glob("runs/**/checkpoint/step*.json")
    assert manifest.with_suffix(".pt").exists()
    assert not list(place.outputs.rglob("*.tmp"))


def no_memory(monkeypatch):
    import torch

    conv2d, count = torch.nn.functional.conv2d, [0]

    def fail(*arguments, **options):
        count[0] += 1
        if count[0] > 30:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return conv2d(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", fail)


def clock_runs_backwards(monkeypatch):
    import time

    now = [1.8e9]

    def back():
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", back)


def seconds_are_sound(place, said):
    (path,) = place.outputs.glob("runs/**/record.json")
    assert 0 <= json.loads(path.read_text())["seconds"] < 3600


def reader_has_left(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))


def dying_worker(monkeypatch):
    import kdbench.data.loader as loader

    here = os.getpid()

    def die(*_, **__):
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("no worker was asked")

    monkeypatch.setattr(loader, "read_image", die)


def photographs(place):
    for split in ("train", "val"):
        images(place, split, classes=2, size=40, root="data/imagenet")
    place.give(f"paths.data={place.folder / 'data'}")


def nothing_outside(place, said):
    assert {path.name for path in place.folder.iterdir()} <= {"out"}


def runs(count):
    """So many runs are done."""

    def check(place, said):
        found = [
            json.loads(path.read_text()) for path in place.outputs.rglob("runs/**/record.json")
        ]
        assert sum(record["status"] == "done" for record in found) == count

    return check


def both(*checks):
    def check(place, said):
        for each in checks:
            each(place, said)

    return check


def no_secret(place, said):
    assert SECRET not in said


def secret(monkeypatch):
    monkeypatch.setenv("KDBENCH_OTHER", SECRET)
    monkeypatch.delenv("KDBENCH_MISSING", raising=False)
