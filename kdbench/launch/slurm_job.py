"""What a Slurm job runs on its node: the worker of a group, as a child of submitit's process."""

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from kdbench.engine.signals import SIGNALS
from kdbench.errors import GaveUpError, Preempted
from kdbench.launch.executor import open_worker
from kdbench.launch.group import FAILED, Group, RunStatus, read_request, report

MAX_REQUEUES = 3  # in a row without progress
LOOK = 0.5  # seconds between two looks at the worker
GRACE = 5.0  # seconds in which a signal to all processes of a job has reached each of them

# How a worker ends that was told to stop: it has saved, or had not begun to listen.
_STOPPED = {Preempted.exit_code, *(-number for number in SIGNALS)}


@dataclass
class GroupJob:
    """The callable that submitit keeps in a file, and calls again after a requeue.

    Attributes:
        request: absolute path.
        environment: of the worker, besides that of the job.
        timeout_min: for people.
        idle: requeues in a row without progress.
    """

    request: Path
    environment: Mapping[str, str]
    timeout_min: float
    idle: int = 0
    _group: Group = field(init=False, repr=False, default_factory=lambda: Group([]))
    _process: subprocess.Popen | None = field(init=False, repr=False, default=None)

    def __call__(self) -> int:
        """Exit code of the worker."""
        self._group = Group(read_request(self.request)[0])
        self._group.note_steps()
        if not self._group.members:
            return 0
        if self._is_stopped():
            return Preempted.exit_code
        self._process = open_worker(self.request, self.environment)
        asked = False
        while (code := self._process.poll()) is None:
            if self._is_stopped() and not asked:
                self._process.terminate()  # once: as it leaves, a second one would kill it
                asked = True
            time.sleep(LOOK)
        if code in _STOPPED and not asked:
            self._await_decision()
        return code

    def checkpoint(self) -> DelayedSubmission | None:
        """Called at the time limit and at preemption: what to requeue, None to end here."""
        if self._process is not None:
            self._process.terminate()
            # Not Popen.wait: this runs in a signal handler, which may have interrupted its lock.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        idle = 0 if self._group.has_progressed() else self.idle + 1
        if idle > MAX_REQUEUES:
            self._give_up()
        if idle > MAX_REQUEUES or self._is_stopped():
            return None
        return DelayedSubmission(replace(self, idle=idle))

    def _await_decision(self) -> None:
        """Slurm has told all processes of the job to stop, and only Slurm knows what comes next.

        Either its notice reaches this process too, and ``checkpoint`` is called, or it ends the
        job, or it requeues it by itself. A result would tell the launcher to go on elsewhere.
        """
        time.sleep(GRACE)
        os._exit(Preempted.exit_code)

    def _give_up(self) -> None:
        reason = (
            f"its job was requeued {MAX_REQUEUES} times without progress; if it is too short to "
            f"train a step and save, raise hydra.launcher.executor.timeout_min, here "
            f"{self.timeout_min:g}"
        )
        log = str(self.request.with_suffix(".log"))
        for member in read_request(self.request)[0]:
            report(
                self.request, RunStatus(member.key, FAILED, GaveUpError.exit_code, reason, log=log)
            )

    def _is_stopped(self) -> bool:
        # Its content counts, not its existence: a network file system may hide a new file for a
        # minute, but shows what was written before a file is opened.
        return bool(stop_file(self.request).read_text())


def stop_file(request: Path) -> Path:
    """Empty, until the launcher wants the job of a request to stop."""
    return request.with_suffix(".stop")
