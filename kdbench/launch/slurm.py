"""One Slurm job per group, through submitit.

Launcher and nodes share the file system and the Python environment: requests, logs and outcomes
are files, and nothing else is exchanged.
"""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from kdbench.errors import ConfigError, Preempted
from kdbench.launch.executor import Slot
from kdbench.launch.group import append_log, read_request
from kdbench.launch.slurm_job import GroupJob, stop_file
from kdbench.machine import thread_variables, wanted_threads

UNLIMITED = 1 << 30  # for submitit, whose limit also counts requeues with progress
RETRY_INTERVAL = 60.0  # seconds from a refused submission to the next attempt
POLL_INTERVAL = 10.0  # seconds between queries to Slurm's controller, which serves all users


class SlurmExecutor:
    """Runs every group as a job.

    Args:
        cluster: "slurm", or "local" to try the same jobs on this machine.
        max_jobs: jobs at a time, running or pending, >= 1.
        timeout_min: time limit of a job, minutes; it is requeued as long as it makes progress.
        signal_delay_s: seconds before the time limit at which Slurm sends its signal.
        partition: None for the cluster's default, as for every other option.
        gpus_per_node: GPUs of a job; none are requested if all runs have ``run.device=cpu``.
        cpus_per_task: cores and threads of a job, >= 1.
        mem_gb: memory of a job.
        additional: further parameters of ``submitit.SlurmExecutor``.
    """

    interval = 0.5

    def __init__(
        self,
        cluster: str,
        max_jobs: int,
        timeout_min: float,
        signal_delay_s: int,
        partition: str | None,
        gpus_per_node: int,
        cpus_per_task: int,
        mem_gb: float | None,
        additional: Mapping[str, Any],
    ) -> None:
        if cluster not in ("slurm", "local"):
            raise ConfigError(f"hydra.launcher.executor.cluster={cluster!r} must be slurm or local")
        if max_jobs < 1 or cpus_per_task < 1 or gpus_per_node < 0:
            raise ConfigError(
                f"hydra.launcher.executor.max_jobs={max_jobs} and cpus_per_task={cpus_per_task} "
                f"must be whole numbers >= 1, gpus_per_node={gpus_per_node} one >= 0"
            )
        if not 0 < signal_delay_s < 60 * timeout_min:
            raise ConfigError(
                f"hydra.launcher.executor.signal_delay_s={signal_delay_s} must be > 0 and less "
                f"than the time limit, timeout_min={timeout_min} (minutes)"
            )
        self.cluster, self.max_jobs, self.timeout_min = cluster, max_jobs, timeout_min
        self.signal_delay_s, self.partition, self.mem_gb = signal_delay_s, partition, mem_gb
        self.gpus_per_node, self.cpus_per_task = gpus_per_node, cpus_per_task
        self.additional, self.controller = additional, Controller()
        self.gpus, self.accepted = gpus_per_node, 0  # GPUs of a job in this sweep; accepted jobs

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """One slot per job; Slurm finds the resources."""
        if self.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ConfigError(
                "hydra.launcher.executor.cluster=slurm needs the commands sbatch and srun, which "
                "are not on PATH; start the sweep on a login node, or use hydra/launcher=cohort "
                "on this machine"
            )
        threads = wanted_threads(threads)
        if threads is not None and threads > self.cpus_per_task:
            raise ConfigError(
                f"run.threads={threads} (or OMP_NUM_THREADS) exceeds the cores of a job, "
                f"hydra.launcher.executor.cpus_per_task={self.cpus_per_task}"
            )
        self.gpus = 0 if device == "cpu" else self.gpus_per_node
        threads_of_job = thread_variables(self.cpus_per_task)
        return [Slot(f"job {k}", threads_of_job) for k in range(self.max_jobs)]

    def start(self, request: Path, slot: Slot) -> "SlurmWorker":
        """Submits a job. If Slurm refuses a later job than the first, it is submitted again.

        Raises:
            ConfigError: Slurm or submitit refuses the first job.
        """
        request = request.absolute()
        stop_file(request).write_text("")
        call = GroupJob(request, slot.environment, self.timeout_min)
        worker = SlurmWorker(lambda: self._submit(call), request, self._has_left, self.controller)
        try:
            worker.submit()
        except (FailedJobError, ValueError) as error:
            if not self.accepted:
                raise ConfigError(
                    f"the job of {request} was refused: {str(error).strip()}; check the options "
                    f"in hydra.launcher.executor"
                ) from error
            append_log(request, f"job refused, retrying every minute: {error}")
        return worker

    def close(self) -> None:
        """Nothing to release."""

    def _submit(self, call: GroupJob) -> submitit.Job:
        job = self._open_submitit(call.request.parent / "submitit").submit(call)
        self.accepted += 1
        return job

    def _open_submitit(self, folder: Path) -> submitit.Executor:
        if self.cluster == "local":
            local = submitit.LocalExecutor(folder, max_num_timeout=UNLIMITED)
            local.update_parameters(
                timeout_min=self.timeout_min,
                signal_delay_s=self.signal_delay_s,
                gpus_per_node=self.gpus,
            )
            return local
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=UNLIMITED)
        own = {
            "job_name": "kdbench",
            "time": self.timeout_min,
            "signal_delay_s": self.signal_delay_s,
            "partition": self.partition,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus_per_task,
            "mem": None if self.mem_gb is None else f"{round(1024 * self.mem_gb)}M",
            # Since Slurm 22.05 a step does not inherit the job's cores.
            "srun_args": [f"--cpus-per-task={self.cpus_per_task}"],
        }
        flags = {"requeue": True, **self.additional.get("additional_parameters", {})}
        slurm.update_parameters(**{**own, **self.additional, "additional_parameters": flags})
        return slurm

    def _has_left(self, job: submitit.Job) -> bool:
        return job.done() if self.cluster == "local" else self.controller.has_lost(job.job_id)


class SlurmWorker:
    """Handle of a job, for the scheduler.

    Args:
        submit: submits it; may fail and be called again.
        request: of its group.
        has_left: whether a job is neither running nor pending.
        controller: cancels it while it is pending.
    """

    def __init__(
        self,
        submit: Callable[[], submitit.Job],
        request: Path,
        has_left: Callable[[submitit.Job], bool],
        controller: "Controller",
    ) -> None:
        self._submit, self.request, self._has_left = submit, request, has_left
        self.controller, self.stopped = controller, False
        self.job: submitit.Job | None = None
        self._tried = 0.0

    def submit(self) -> None:
        """Submits the job; on an exception of submitit, ``poll`` tries again."""
        self._tried = time.monotonic()
        self.job = self._submit()

    def poll(self) -> int | None:
        """The worker's exit code, if it has ended; -9 if the job left the queue without one."""
        job = self.job
        if job is None:
            return self._try_again()
        left = self._has_left(job)  # first, so that the result read below is final
        if job.paths.result_pickle.exists():
            return self._read_result(job)
        if not left:
            return None
        append_log(
            self.request, f"job {job.job_id} left the queue without a result; {job.paths.stderr}"
        )
        return -signal.SIGKILL

    def stop(self) -> None:
        """Stops the worker of a running job through a file; cancels a pending job."""
        self.stopped = True
        stop_file(self.request).write_text("stop\n")
        if isinstance(self.job, submitit.SlurmJob):
            self.controller.cancel_pending(self.job.job_id)

    def kill(self) -> None:
        """Cancels the job. The worker still saves if it has time: its standard input closes."""
        if self.job is not None:
            self.job.cancel(check=False)

    def _try_again(self) -> int | None:
        if self.stopped:
            return Preempted.exit_code
        if time.monotonic() - self._tried > RETRY_INTERVAL:
            with suppress(FailedJobError):
                self.submit()
        return None

    def _read_result(self, job: submitit.Job) -> int:
        try:
            return job.result()
        except UncompletedJobError as error:
            if read_request(self.request)[0] and not self.stopped:  # else the log has the reason
                append_log(self.request, str(error))
            return 1


class Controller:
    """Slurm's controller: queried seldom, and once for all jobs."""

    def __init__(self) -> None:
        self._misses: Counter[str] = Counter()  # consecutive queries that did not list a job
        self._canceled: list[str] = []
        self._polled = 0.0

    def has_lost(self, job_id: str) -> bool:
        """Whether a job is neither running nor pending, from ``squeue``: needs no accounting.

        Two queries must agree, because a job may be missing for a moment while it is requeued.
        """
        self._misses.setdefault(job_id, 0)
        if time.monotonic() - self._polled > POLL_INTERVAL:
            self._poll()
        return self._misses[job_id] >= 2

    def cancel_pending(self, job_id: str) -> None:
        """Cancels a job, now or once it is pending."""
        self._canceled.append(job_id)
        self._cancel()

    def _poll(self) -> None:
        command = ["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:  # else the controller is down, not the jobs
            listed = set(done.stdout.split())
            for job_id in self._misses:
                self._misses[job_id] = 0 if job_id in listed else self._misses[job_id] + 1
        if self._canceled:
            self._cancel()
        self._polled = time.monotonic()

    def _cancel(self) -> None:
        command = ["scancel", "--state=PENDING", *self._canceled]
        subprocess.run(command, capture_output=True, check=False)
