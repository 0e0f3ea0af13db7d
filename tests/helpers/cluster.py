"""Sweeps whose processes run elsewhere: real commands, and how tests watch them."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from kdbench.digest import state_digest
from kdbench.records.record import read_record
from tests.helpers.harness import TINY
from tests.helpers.records import CIRCUMSTANCES
from tests.helpers.waiting import look_again, wait_for

SLOW = (
    "-m",
    *TINY,
    "method=scratch",
    "student._target_=tests.helpers.slow.net",
    "student.arch=net",
)


class Cluster:
    """Commands in a folder of a test; five steps are an epoch.

    Args:
        folder: of the test.
        launcher: arguments that choose it.
        pause: seconds that each step takes longer.
        hold_at: for ``waiting.hold_at``, in each process that trains.
    """

    def __init__(self, folder, *launcher, pause=0.1, hold_at=""):
        self.folder, self.launcher, self.said_path = folder, launcher, folder / "said.txt"
        self.pause, self.hold_at, self.started = pause, hold_at, []
        folder.mkdir(exist_ok=True)

    def start(self, *arguments):
        command = [sys.executable, "-m", "kdbench.cli.train", *SLOW, *self.launcher, *arguments]
        environment = {
            **os.environ,
            "PAUSE": str(self.pause),
            "KDBENCH_ALLOW_TARGETS": "tests.helpers.slow.net",
            "HOLD_AT": self.hold_at,
        }
        with self.said_path.open("w") as said:
            process = subprocess.Popen(
                [*command, f"paths.outputs={self.folder}/out"],
                stdout=said,
                stderr=said,
                env=environment,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def __call__(self, *arguments):
        return self.finish(self.start(*arguments))

    def finish(self, process):
        """Exit code and what was said."""
        return process.wait(), self.said

    @property
    def said(self):
        return self.said_path.read_text()

    @property
    def runs(self):
        """Folders of all runs that have ended."""
        return sorted(path.parent for path in (self.folder / "out" / "runs").rglob("record.json"))

    @property
    def requests(self):
        """One for each process that was asked for."""
        return list((self.folder / "out" / "sweeps").glob("*/worker*.json"))

    def close(self):
        """Leaves nothing running, should a test have failed."""
        for process in self.started:
            process.kill()

    def wait(self, process, condition):
        """Until the condition holds, as long as the command runs."""
        wait_for(lambda: process.poll() is not None or condition())
        assert process.poll() is None, self.said

    def has_reached(self, epoch):
        return f"epoch {epoch}/" in self.said

    def workers(self):
        """Pids of the processes that train."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                output = os.readlink(f"/proc/{pid}/fd/1")
                command = Path(f"/proc/{pid}/cmdline").read_text()
                if output.startswith(f"{self.folder}/out") and "kdbench.launch.worker" in command:
                    found.append(int(pid))
        return found

    def results(self):
        """What must not depend on how a run was started: by run key."""
        found = {}
        for folder in self.runs:
            record = asdict(read_record(folder))
            found[record["run_key"]] = (
                {name: value for name, value in record.items() if name not in CIRCUMSTANCES},
                (folder / "metrics.csv").read_bytes(),
                state_digest(load_file(folder / "student.safetensors")),
            )
        return found


def undisturbed(folder, *arguments):
    """Results of the same runs, trained on this machine in one go."""
    quiet = Cluster(folder, "hydra.launcher.executor.cpu_slots=1", pause=0)
    code, said = quiet(*arguments)
    assert code == 0, said
    return quiet.results()


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def watch_gpus(cluster, process):
    """Pairs of GPUs that workers saw side by side, and the largest number of workers at a time."""
    pairs, most = set(), 0
    while process.poll() is None:
        with suppress(OSError, KeyError):
            gpus = [_variables(pid)["CUDA_VISIBLE_DEVICES"] for pid in cluster.workers()]
            most = max(most, len(gpus))
            pairs |= {tuple(sorted(gpus))} if len(gpus) == 2 else set()
        look_again()
    return pairs, most


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def _variables(pid):
    content = Path(f"/proc/{pid}/environ").read_text()
    return dict(line.split("=", 1) for line in content.split("\0") if "=" in line)
