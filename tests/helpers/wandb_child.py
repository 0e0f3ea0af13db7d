"""Follows runs in a process of their own, because W&B reads its environment once per process.

The argument is JSON with any of: folders, overrides (of conf/tracker/wandb.yaml), config, patch
(the ``wandb.login`` of this process says yes), kill (W&B's service after the first epoch), lose
(the server after the first epoch), states (of the trackers that followed before), epochs (3).
Prints one line of JSON: how often it logged in, the mode of each ``wandb.init``, how many runs
were closed in the main thread, states, whether the environment is as before.
"""

import json
import logging
import os
import signal
import sys
import threading
import urllib.request
from pathlib import Path

from omegaconf import OmegaConf

from kdbench.records.identity import RunIdentity
from kdbench.tracker.wandb import WandbTracker
from tests.helpers.paths import ROOT
from tests.helpers.waiting import wait_for

YAML = ROOT / "conf" / "tracker" / "wandb.yaml"


def make_tracker(**overrides):
    values = OmegaConf.to_container(OmegaConf.load(YAML))
    del values["_target_"]
    return WandbTracker(**(values | overrides))


def make_identity(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    names = {"dataset": "mnist5k", "pair": "resnet20_resnet8", "method": "kd"}
    names |= {"temperature": "constant", "objective": "kd", "seed": 0, "run_key": "ab" * 32}
    return RunIdentity(folder=folder, **(names | changes))


def make_config(**more):
    return {"student": {"arch": "resnet8"}, "run": {"protocol": "paper", "epochs": 3}, **more}


def make_row(epoch, loss):
    row = {"epoch": epoch, "step": 10 * (epoch + 1), "train/loss": loss, "test/top1": 50.0 + epoch}
    row |= {f"temperature/teacher_{name}": 8.0 - epoch for name in ("mean", "p5", "p95")}
    return row


def follow(folder, losses=(1.0, 0.5), state=None, status="done", **overrides):
    tracker = make_tracker(**overrides)
    tracker.start(make_identity(folder), make_config(), state)
    for epoch, loss in enumerate(losses):
        tracker.log(make_row(epoch, loss))
    tracker.finish(status, {"top1_last": 51.0})
    return tracker


def make_point(step):
    point = {"step": step, "batch/loss": 1.0 / step, "batch/temperature_teacher_mean": 4.0}
    return point | {"batch/temperature_student_mean": 3.0}


def kill_service():
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
            wait_for(lambda pid=pid: has_ended(pid))


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def count(owner, name, describe):
    """Wraps a function; returns the list of what its calls are described as."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(describe(options))
        return function(*arguments, **options)

    setattr(owner, name, counted)
    return calls


def main(task):
    import wandb

    if task.get("patch"):
        wandb.login = lambda **_: True
    logins = count(wandb, "login", lambda options: 1)
    modes = count(wandb, "init", lambda options: options["mode"])
    is_here = lambda options: threading.current_thread() is threading.main_thread()  # noqa: E731
    closed_here = count(WandbTracker, "_close", is_here)
    before = dict(os.environ)
    trackers = [make_tracker(**task.get("overrides", {})) for _ in task["folders"]]
    states = task.get("states", [None] * len(trackers))
    for tracker, folder, state in zip(trackers, task["folders"], states, strict=True):
        tracker.start(make_identity(Path(folder)), make_config(**task.get("config", {})), state)
    for epoch in range(task.get("epochs", 3)):
        for tracker in trackers:
            for step in range(10 * epoch + 5, 10 * epoch + 11, 5):
                tracker.log_point(make_point(step))
            logging.getLogger("kdbench").info("the key is %s", os.environ.get("HF_TOKEN"))
            tracker.log(make_row(epoch, 1.0 / (epoch + 1)))
        if task.get("kill") and epoch == 0:
            kill_service()
        if task.get("lose") and epoch == 0:
            urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/lose", data=b"{}")
    for tracker in trackers:
        tracker.finish("done", {"top1_last": 52.0})
    states = [tracker.state_dict() for tracker in trackers]
    same = dict(os.environ) == before
    told = {"logins": len(logins), "modes": modes, "closed_here": sum(closed_here)}
    told["states"] = states
    print(json.dumps({**told, "same_environment": same}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    main(json.loads(sys.argv[1]))
