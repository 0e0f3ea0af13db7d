"""Jobs that save, requeue and resume, on submitit's local cluster or a fake one."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from submitit.core.utils import FailedJobError

from kdbench.errors import ConfigError
from kdbench.launch import slurm, slurm_job
from kdbench.launch.executor import Slot
from kdbench.launch.group import Member, Tail, parse_outcome, read_request, write_request
from kdbench.launch.slurm import Controller, SlurmExecutor
from kdbench.launch.slurm_job import MAX_REQUEUES, GroupJob, stop_file
from tests.helpers.cluster import Cluster, parent, undisturbed

OPTIONS = {
    "cluster": "local",
    "max_jobs": 1,
    "timeout_min": 10,
    "signal_delay_s": 120,
    "partition": None,
    "gpus_per_node": 0,
    "cpus_per_task": 1,
    "mem_gb": None,
    "additional": {},
}


@pytest.mark.slow
def test_a_signaled_job_is_requeued_and_ends_with_the_same_result(tmp_path):
    """Slurm sends one signal at the time limit and on preemption; here the test sends it."""
    executor = {**OPTIONS, "partition": "null", "mem_gb": "null", "additional": "{}"}
    options = [f"hydra.launcher.executor.{name}={value}" for name, value in executor.items()]
    launcher = ("hydra/launcher=cohort_slurm", *options)
    jobs = Cluster(tmp_path / "jobs", *launcher, pause=0, hold_at="epoch 3/6,epoch 5/6")
    process = jobs.start("run.epochs=6")
    for epoch in (2, 4):  # the third is begun, and waits
        jobs.wait(process, lambda epoch=epoch: jobs.has_reached(epoch) and jobs.workers())
        os.kill(parent(*jobs.workers()), signal.SIGUSR2)
        jobs.wait(process, lambda epoch=epoch: len(continued(jobs.said)) == epoch // 2)
    code, said = jobs.finish(process)
    assert code == 0, said
    assert len(continued(said)) == 2
    assert len(jobs.requests) == 1  # the same job, over and over
    assert jobs.results() == undisturbed(tmp_path / "quiet", "run.epochs=6")


def continued(said):
    return re.findall(r"scratch-none-seed0-\w+ continues after step \d+", said)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose worker saves a step if it is told one, and waits for a signal."""

    def open_worker(request, environment):
        if "STEP" in environment:
            saved = tmp_path / "run1" / "checkpoint" / f"step{environment['STEP']}.json"
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_text("{}")
        return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])

    monkeypatch.setattr(slurm_job, "open_worker", open_worker)
    members = [Member(f"run{k}", f"key{k}", str(tmp_path / f"run{k}"), {}) for k in range(2)]
    write_request(tmp_path / "worker000.json", members, 1.0)
    stop_file(tmp_path / "worker000.json").write_text("")
    return GroupJob(tmp_path / "worker000.json", {}, timeout_min=10)


class TimeIsUpError(Exception):
    pass


def run_until_time_is_up(job, monkeypatch):
    """What is requeued; submitit's signal handler also interrupts the sleep of a job."""

    def sleep(seconds):
        raise TimeIsUpError

    with monkeypatch.context() as patch:
        patch.setattr(slurm_job.time, "sleep", sleep)
        with pytest.raises(TimeIsUpError):
            job()
    requeued = job.checkpoint()
    assert job._process.wait() == -15
    return requeued and requeued.function


def test_a_job_without_progress_is_given_up(job, monkeypatch, tmp_path):
    for _ in range(MAX_REQUEUES):
        job = run_until_time_is_up(job, monkeypatch)
    assert run_until_time_is_up(job, monkeypatch) is None
    outcomes = [parse_outcome(line) for line in Tail(tmp_path / "worker000.jsonl").lines()]
    assert [(outcome.key, outcome.exit_code) for outcome in outcomes] == [("key0", 8), ("key1", 8)]
    assert "requeued 3 times without progress" in outcomes[0].reason
    assert job() == 0  # nothing is left, should it be started again


def test_a_job_with_progress_is_requeued_without_limit(job, monkeypatch, tmp_path):
    idle = []
    for start in range(3 * MAX_REQUEUES):
        saves = {"STEP": str(start)} if start % MAX_REQUEUES == 1 else {}
        job = run_until_time_is_up(replace(job, environment=saves), monkeypatch)
        idle.append(job.idle)
    assert idle == [1, 0, 1, 2, 0, 1, 2, 0, 1]
    assert not (tmp_path / "worker000.jsonl").exists()


def test_a_stopped_job_does_not_come_back(job, monkeypatch, tmp_path):
    stop_file(job.request).write_text("stop\n")
    assert job() == 75  # pending until now
    stop_file(job.request).write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(
            slurm_job.time, "sleep", lambda _: stop_file(job.request).write_text("stop\n")
        )
        assert job() == -15  # running; a real worker saves and leaves with 75
    assert job.checkpoint() is None
    assert len(read_request(job.request)[0]) == 2


def test_a_job_signaled_by_slurm_has_no_result(job, monkeypatch):
    """Slurm requeues or ends it; with a result, the launcher would continue elsewhere too."""

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(slurm_job.time, "sleep", lambda seconds: job._process.terminate())
    monkeypatch.setattr(slurm_job.os, "_exit", leave)
    with pytest.raises(SystemExit) as stop:
        job()
    assert stop.value.code == 75


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A fake squeue: lists given jobs, or fails."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(slurm, "POLL_INTERVAL", 0.0)

    def tell(*job_ids, code=0):
        script = f"#!/bin/sh\nprintf '%s\\n' {' '.join(job_ids)}\nexit {code}\n"
        (tmp_path / "squeue").write_text(script)
        (tmp_path / "squeue").chmod(0o755)

    return tell


def test_a_job_that_left_the_queue_is_detected_without_accounting(squeue):
    controller = Controller()
    squeue("7", "8")
    assert not controller.has_lost("7")
    squeue("8")
    assert not controller.has_lost("7")  # it may be on its way back into the queue
    squeue("7", code=1)
    assert not controller.has_lost("7")  # the controller is away
    squeue("7")
    assert not controller.has_lost("7")
    squeue()
    assert [controller.has_lost("7"), controller.has_lost("7")] == [False, True]


class Submissions:
    """A fake of submitit that refuses the submissions with these numbers."""

    def __init__(self, *refused):
        self.refused, self.count = refused, 0

    def __call__(self, executor, call):
        self.count += 1
        if self.count in self.refused:
            raise FailedJobError("sbatch: error: Unable to contact slurm controller")
        executor.accepted += 1


def start(executor, folder):
    folder.mkdir(exist_ok=True)
    return executor.start(folder / "worker000.json", Slot("job 0"))


def test_a_refused_first_job_is_an_error_and_a_later_one_is_retried(tmp_path, monkeypatch):
    submissions = Submissions(1, 3, 4)
    monkeypatch.setattr(SlurmExecutor, "_submit", lambda *arguments: submissions(*arguments))
    executor = SlurmExecutor(**OPTIONS)
    with pytest.raises(ConfigError, match="Unable to contact"):
        start(executor, tmp_path)
    start(executor, tmp_path)
    worker = start(executor, tmp_path)
    assert "Unable to contact" in (tmp_path / "worker000.log").read_text()
    assert worker.poll() is None
    assert submissions.count == 3
    monkeypatch.setattr(slurm, "RETRY_INTERVAL", 0.0)
    assert worker.poll() is None
    assert worker.poll() is None
    assert submissions.count == 5
    worker = start(executor, tmp_path)
    worker.job = None
    worker.stop()
    assert worker.poll() == 75


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": "pbs"}, "'pbs'"),
        ({"max_jobs": 0}, "max_jobs=0"),
        ({"cpus_per_task": 0}, "cpus_per_task=0"),
        ({"gpus_per_node": -1}, "gpus_per_node=-1"),
        ({"signal_delay_s": 600}, "signal_delay_s=600"),
        ({"cluster": "slurm"}, "sbatch"),
        ({}, "run.threads=2"),
    ],
)
def test_impossible_options_are_refused(options, words, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=words):
        SlurmExecutor(**{**OPTIONS, **options}).slots("auto", threads=2)


def test_slots_are_jobs(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    executor = SlurmExecutor(**{**OPTIONS, "max_jobs": 3, "cpus_per_task": 4, "gpus_per_node": 1})
    slots = executor.slots("cpu", None)
    assert [slot.name for slot in slots] == ["job 0", "job 1", "job 2"]
    assert slots[0].environment == {"OMP_NUM_THREADS": "4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as for a run alone
    assert executor.slots("cpu", None)[0].environment == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    with pytest.raises(ConfigError, match="OMP_NUM_THREADS"):
        executor.slots("cpu", None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert executor.gpus == 0
    executor.slots("auto", 4)
    assert executor.gpus == 1
