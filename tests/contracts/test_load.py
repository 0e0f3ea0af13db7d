"""What the launcher itself costs, and what many runs leave behind."""

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.records.collect import collect
from tests.helpers.harness import TINY, context
from tests.helpers.waiting import count_calls

# Plays the worker: every run of the request is done at once.
EMPTY = """
import json, sys
request = sys.argv[1]
with open(request.replace(".json", ".jsonl"), "w") as file:
    for member in json.load(open(request))["members"]:
        outcome = dict(key=member["key"], status="done", exit_code=0, reason="", top1=1.0, log="")
        file.write(json.dumps(outcome) + "\\n")
"""


def launch_empty_jobs(launcher, count, folder, answers):
    """Function calls per job and the memory (MB) of a launcher that has nothing to train."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    import kdbench.launch.local
    from kdbench.config.compose import compose, hydra_context

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    kdbench.launch.local.open_worker = lambda request, environment: subprocess.Popen(
        [sys.executable, "-c", EMPTY, str(request)]
    )
    own = [*TINY, f"paths.outputs={folder}", f"hydra/launcher={launcher}"]
    with hydra_context() as loader:
        config = compose(loader, own, with_hydra=True)
        config.hydra.overrides.task = TINY
        found = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
            task_function=lambda cfg: 1.0,
            config=config,
        )
        jobs = [[*TINY, f"paths.outputs={folder}", f"seed={seed}"] for seed in range(count)]
        results = []
        calls = count_calls(lambda: results.extend(found.launch(jobs, 0)))
    assert [result.return_value for result in results] == [1.0] * count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.put((calls / count, peak, "torch" in sys.modules))


def cost(launcher, count, folder):
    answers = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(
        target=launch_empty_jobs, args=(launcher, count, str(folder), answers)
    )
    process.start()
    answer = answers.get()
    process.join()
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("count", [30])
def test_empty_jobs_cost_little_above_hydra(tmp_path, count):
    basic, _, _ = cost("basic", count, tmp_path / "basic")
    own, megabytes, has_torch = cost("cohort", count, tmp_path / "cohort")
    print(f"basic {basic:.0f}, cohort {own:.0f} calls a job, {megabytes:.0f} MB")
    assert own <= 1.3 * basic
    assert megabytes <= 300
    assert not has_torch


def train_many(folder, count, answers):
    """Memory (MB) and open files after each of many runs in one process."""
    from kdbench.config.compose import compose_config
    from kdbench.engine.run import train_job

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    seen = []
    for seed in range(count):
        cfg = compose_config([*TINY, "run.epochs=1", f"paths.outputs={folder}", f"seed={seed}"])
        train_job(cfg, Path(folder) / f"run{seed}")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen.append((pages * resource.getpagesize() / 1e6, len(os.listdir("/proc/self/fd"))))
    answers.put(seen)


@pytest.mark.slow
def test_many_runs_in_one_process_leave_no_memory_and_no_files_behind(tmp_path):
    answers = context().Queue()
    process = context().Process(target=train_many, args=(str(tmp_path), 60, answers))
    process.start()
    seen = answers.get()
    process.join()
    (memory, files), (last_memory, last_files) = seen[9], seen[59]
    assert last_files <= files
    assert last_memory <= memory + 20


def finish(folder, number, barrier):
    from tests.records.test_record import make_record

    record = make_record(run_key=f"{number:064x}", seed=number)
    (Path(folder) / str(number)).mkdir()
    barrier.wait()
    record.write(Path(folder) / str(number))


@pytest.mark.slow
def test_sixty_four_runs_that_finish_at_once_lose_nothing(tmp_path):
    barrier = context().Barrier(64)
    processes = [
        context().Process(target=finish, args=(str(tmp_path), number, barrier))
        for number in range(64)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = collect(tmp_path)
    assert sorted(run.record.seed for run in found.runs) == list(range(64))
    assert not found.problems
