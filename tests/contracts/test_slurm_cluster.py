"""Sweeps on a real Slurm of one node with two pretended GPUs: ``make test-slurm`` starts it."""

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.cluster import Cluster, kill, parent, undisturbed, wait_for, watch_gpus

pytestmark = [pytest.mark.slurm]

ONE = ("seed=0", "run.epochs=20")
FOUR = ("seed=0,1,2,3", "run.epochs=10")


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def queue():
    return slurm("squeue", "--noheader", "--format=%A")


@pytest.fixture
def jobs(tmp_path):
    """Commands whose groups become jobs with a GPU and a run each."""
    # Its jobs are cancelled and its daemons killed: never those of a real cluster.
    assert "ClusterName=kdbench" in Path(os.environ["SLURM_CONF"]).read_text()
    assert queue() == []
    options = {"cpus_per_task": 1, "max_jobs": 4, "timeout_min": 10}
    chosen = [f"hydra.launcher.executor.{name}={value}" for name, value in options.items()]
    jobs = Cluster(
        tmp_path / "jobs", "hydra/launcher=cohort_slurm", "hydra.launcher.max_learners=1", *chosen
    )
    yield jobs
    jobs.close()
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    wait_for(lambda: queue() == [])


def test_four_jobs_have_two_gpus_between_them(jobs, tmp_path):
    process = jobs.start(*FOUR)
    pairs, most = watch_gpus(jobs, process)
    code, said = jobs.finish(process)
    assert code == 0, said
    assert (pairs, most) == ({("0", "1")}, 2)
    assert len(jobs.requests) == 4
    assert jobs.results() == undisturbed(tmp_path / "quiet", *FOUR)


def requeue(job):
    slurm("scontrol", "requeue", job)


def preempt(job):
    slurm("scancel", "--signal=USR2", job)


def lose_node(job):
    kill(int((slurm_folder() / "slurmd.pid").read_text()))
    for pid in processes(job):
        kill(pid)
    slurm("scontrol", "update", "node=localhost", "state=down", "reason=test")
    slurm("slurmd", "-N", "localhost")


def processes(job):
    """Pids of all that belongs to a job, Slurm's own processes included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (folder / "environ").read_text().split("\0")
            title = (folder / "cmdline").read_text()
            if f"SLURM_JOB_ID={job}" in variables or title.startswith(f"slurmstepd: [{job}."):
                found.append(int(folder.name))
    return found


def slurm_folder():
    return Path(os.environ["SLURM_CONF"]).parent


@pytest.mark.parametrize("disturb", [requeue, preempt, lose_node])
def test_a_requeued_job_goes_on_and_ends_as_if_nothing_had_been(jobs, tmp_path, disturb):
    process = jobs.start(*ONE)
    for epoch in (2, 10):
        jobs.wait(process, lambda epoch=epoch: jobs.has_reached(epoch))
        (job,) = queue()
        disturb(job)
    code, said = jobs.finish(process)
    assert code == 0, said
    assert len(re.findall(r"scratch-none-seed0-\w+ continues after step \d+", said)) == 2
    assert len(jobs.requests) == 1  # it came back by itself, not from the launcher
    assert jobs.results() == undisturbed(tmp_path / "quiet", *ONE)


def test_a_job_whose_time_is_up_goes_on(jobs, tmp_path):
    long = ("seed=0", "run.epochs=150")  # 75 s; Slurm gives notice after 60 to 90 s
    times = ("hydra.launcher.executor.timeout_min=2", "hydra.launcher.executor.signal_delay_s=30")
    process = jobs.start(*long, *times)
    code, said = jobs.finish(process)
    assert code == 0, said
    assert re.search(r"scratch-none-seed0-\w+ continues after step \d+", said)
    assert len(jobs.requests) == 1
    (log,) = (jobs.folder / "out" / "sweeps").glob("*/submitit/*.out")
    assert "Caught signal SIGUSR2" in log.read_text()
    assert jobs.results() == undisturbed(tmp_path / "quiet", *long)


@pytest.mark.parametrize("whole_job", [False, True])
def test_a_killed_job_is_tried_again(jobs, tmp_path, whole_job):
    """Without accounting Slurm tells nobody that a job has been killed."""
    process = jobs.start(*ONE)
    jobs.wait(process, lambda: jobs.has_reached(3))
    (worker,) = jobs.workers()
    kill(parent(worker) if whole_job else worker)
    code, said = jobs.finish(process)
    assert code == 0, said
    assert "the process ended with signal 9" in said
    assert ("left the queue without a result" in said) == whole_job
    assert re.search(r"scratch-none-seed0-\w+ continues after step \d+", said)
    assert len(jobs.requests) == 2
    assert jobs.results() == undisturbed(tmp_path / "quiet", *ONE)


def test_ctrl_c_leaves_nothing_in_the_queue(jobs, tmp_path):
    process = jobs.start(*FOUR)
    jobs.wait(process, lambda: jobs.has_reached(3) and len(jobs.workers()) == 2)
    assert len(queue()) == 4
    os.kill(process.pid, signal.SIGINT)
    code, said = jobs.finish(process)
    assert code == 75, said
    assert "stopped by SIGINT" in said
    assert not jobs.workers()
    assert queue() == []
    code, said = jobs(*FOUR)
    assert code == 0, said
    assert re.search(r"continues after step \d+", said)
    assert jobs.results() == undisturbed(tmp_path / "quiet", *FOUR)


def test_jobs_finish_without_their_launcher(jobs):
    process = jobs.start(*FOUR)
    jobs.wait(process, lambda: jobs.has_reached(1))
    kill(process.pid)
    wait_for(lambda: queue() == [])
    code, said = jobs(*FOUR)
    assert code == 0, said
    assert "4 already done" in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("partition=nowhere", "invalid partition"),
        ("gpus_per_node=3", "not available"),
        ("additional={acount: me}", "acount"),
    ],
)
def test_what_slurm_does_not_know_is_refused(jobs, option, words):
    code, said = jobs(*ONE, f"hydra.launcher.executor.{option}")
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said


def test_an_absent_controller_is_waited_for(jobs, tmp_path):
    process = jobs.start("seed=0,1", "run.epochs=10", "hydra.launcher.executor.max_jobs=1")
    jobs.wait(process, lambda: jobs.has_reached(2))
    slurm("scontrol", "shutdown", "controller")
    jobs.wait(process, lambda: "job refused" in jobs.said)
    slurm("slurmctld")
    code, said = jobs.finish(process)
    assert code == 0, said
    assert len(jobs.runs) == 2
    assert json.loads((jobs.runs[0] / "record.json").read_text())["attempts"] == 1
