"""Sweeps on a Ray of this machine with two pretended GPUs: ``make test-ray``."""

import os
import re
import signal
import subprocess
import tempfile

import pytest

from tests.helpers.cluster import Cluster, kill, parent, undisturbed, wait_for, watch_gpus

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ONE = ("seed=0", "run.epochs=20")
FOUR = ("seed=0,1,2,3", "run.epochs=10")
EXECUTOR = "hydra.launcher.executor"


@pytest.fixture
def place():
    """For the files of Ray; paths of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="kd", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def ray(tmp_path, place):
    """Commands whose groups become actors with a run each."""
    ray = Cluster(
        tmp_path / "ray",
        "hydra/launcher=cohort_ray",
        "hydra.launcher.max_learners=1",
        f"{EXECUTOR}.num_cpus=4",
        f"{EXECUTOR}.num_gpus=2",
        f"{EXECUTOR}.temp_dir={place}",
    )
    yield ray
    ray.close()
    wait_for(lambda: not processes(place))


def processes(place):
    """Ray's own processes."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if place in line]


def listening():
    """Addresses at which some process listens for others."""
    found = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True)
    return {
        line.split()[3].replace("[::ffff:127.0.0.1]", "127.0.0.1")
        for line in found.stdout.splitlines()
    }


def test_four_actors_have_two_gpus_between_them(ray, tmp_path):
    before = listening()
    process = ray.start(*FOUR)
    ray.wait(process, lambda: ray.has_reached(1))
    opened = listening() - before
    assert opened
    assert all(address.startswith("127.0.0.1:") for address in opened)
    assert "127.0.0.1:8265" not in opened  # the dashboard
    pairs, most = watch_gpus(ray, process)
    code, said = ray.finish(process)
    assert code == 0, said
    assert (pairs, most) == ({("0", "1")}, 2)
    assert len(ray.requests) == 4
    assert ray.results() == undisturbed(tmp_path / "quiet", *FOUR)


def test_groups_share_a_gpu(ray):
    process = ray.start(*FOUR, f"{EXECUTOR}.slots_per_gpu=2", f"{EXECUTOR}.num_gpus=1")
    pairs, most = watch_gpus(ray, process)
    assert ray.finish(process)[0] == 0
    assert (pairs, most) == ({("0", "0")}, 2)


@pytest.mark.parametrize("whole_actor", [False, True])
def test_a_killed_process_is_tried_again(ray, tmp_path, whole_actor):
    process = ray.start(*ONE)
    ray.wait(process, lambda: ray.has_reached(3))
    (worker,) = ray.workers()
    kill(parent(worker) if whole_actor else worker)
    code, said = ray.finish(process)
    assert code == 0, said
    assert "the process ended with signal 9" in said
    assert re.search(r"scratch-none-seed0-\w+ continues after step \d+", said)
    assert len(ray.requests) == 2
    assert ray.results() == undisturbed(tmp_path / "quiet", *ONE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_launcher_and_the_same_command_goes_on(ray, tmp_path, place, number):
    process = ray.start(*FOUR)
    ray.wait(process, lambda: ray.has_reached(3) and len(ray.workers()) == 2)
    if number == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    else:
        kill(process.pid)
    code, said = ray.finish(process)
    assert code == (75 if number == signal.SIGINT else -signal.SIGKILL), said
    wait_for(lambda: not ray.workers() and not processes(place))
    code, said = ray(*FOUR)
    assert code == 0, said
    assert re.search(r"continues after step \d+", said)
    assert ray.results() == undisturbed(tmp_path / "quiet", *FOUR)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["num_gpus=0"], "needs 1 CPUs and 1 GPUs, but no node"),
        (["cpus_per_group=5"], "needs 5 CPUs and 1 GPUs, but no node"),
        (["address=127.0.0.1:1", "num_cpus=null"], "num_gpus and temp_dir belong to it"),
        (
            ["address=127.0.0.1:1", "num_cpus=null", "num_gpus=null", "temp_dir=null"],
            "(hydra.launcher.executor.address=127.0.0.1:1): [Errno 111] Connection refused",
        ),
    ],
)
def test_what_is_not_there_is_refused(ray, options, words):
    code, said = ray(*ONE, *[f"{EXECUTOR}.{option}" for option in options])
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
    assert not ray.requests
