"""The part of a Slurm job on its node: runs the worker of a group as a child process."""

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

MAX_REQUEUES = 3  # consecutive ones without progress
POLL_INTERVAL = 0.5  # seconds
GRACE = 5.0  # seconds for a signal to reach all processes of a job

# Exit codes of a stopped worker: it has saved, or had not installed its signal handlers yet.
_STOPPED = {Preempted.exit_code, *(-number for number in SIGNALS)}


@dataclass
class GroupJob:
    """The callable that submitit stores in a file and calls again after a requeue.

    Attributes:
        request: absolute path.
        environment: of the worker, in addition to the job's.
        timeout_min: for the error message.
        idle: consecutive requeues without progress.
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
        self._group.mark_progress()
        if not self._group.members:
            return 0
        if self._is_stopped():
            return Preempted.exit_code
        self._process = open_worker(self.request, self.environment)
        terminated = False
        while (code := self._process.poll()) is None:
            if self._is_stopped() and not terminated:
                self._process.terminate()  # only once: a second signal would kill it
                terminated = True
            time.sleep(POLL_INTERVAL)
        if code in _STOPPED and not terminated:
            self._await_slurm()
        return code

    def checkpoint(self) -> DelayedSubmission | None:
        """Called at the time limit and on preemption: the job to requeue, or None to end."""
        if self._process is not None:
            self._process.terminate()
            # Not Popen.wait: this signal handler may have interrupted a holder of its lock.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        idle = 0 if self._group.has_progressed() else self.idle + 1
        if idle > MAX_REQUEUES:
            self._give_up()
        if idle > MAX_REQUEUES or self._is_stopped():
            return None
        return DelayedSubmission(replace(self, idle=idle))

    def _await_slurm(self) -> None:
        """Waits after Slurm has signaled the processes of the job, and exits without a result.

        Either the signal reaches this process too and ``checkpoint`` is called, or Slurm ends or
        requeues the job. A result would make the launcher continue elsewhere.
        """
        time.sleep(GRACE)
        os._exit(Preempted.exit_code)

    def _give_up(self) -> None:
        reason = (
            f"its job was requeued {MAX_REQUEUES} times without progress; if there is too little "
            f"time to save a step, raise hydra.launcher.executor.timeout_min={self.timeout_min:g}"
        )
        log = str(self.request.with_suffix(".log"))
        for member in read_request(self.request)[0]:
            report(
                self.request, RunStatus(member.key, FAILED, GaveUpError.exit_code, reason, log=log)
            )

    def _is_stopped(self) -> bool:
        # Check the content, not the existence: a network file system may hide a new file for a
        # minute, but opening a file shows its latest content.
        return bool(stop_file(self.request).read_text())


def stop_file(request: Path) -> Path:
    """File that is empty until the launcher stops the job of a request."""
    return request.with_suffix(".stop")
