"""``kdbench-train -m`` with the cohort launcher: real trainings, real processes."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from cli import Cli
from harness import TINY
from safetensors.torch import load_file
from waiting import wait_for

from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config, run_key
from kdbench.digest import state_digest
from kdbench.engine.lock import run_lock
from kdbench.launch.group import DONE, Member, Tail, parse_outcome
from kdbench.launch.worker import work
from kdbench.results.record import CIRCUMSTANCES, read_record

TEMPERATURES = "temperature=constant,cosine,random,ctkd,dtkd"


class Sweeps(Cli):
    """Commands with one slot, where a test does not ask for more."""

    def start(self, *arguments, **circumstances):
        if "-m" in arguments and not any("gpus=" in argument for argument in arguments):
            arguments += ("hydra.launcher.executor.cpu_slots=1",)
        return super().start(*arguments, **circumstances)


@pytest.fixture
def kdbench(tmp_path):
    sweeps = Sweeps(tmp_path)
    yield sweeps
    sweeps.close()


def results(cli):
    """What must not depend on how a run was started: by run key."""
    found = {}
    for path in cli.runs:
        record = asdict(read_record(path.parent))
        found[record["run_key"]] = (
            {name: value for name, value in record.items() if name not in CIRCUMSTANCES},
            (path.parent / "metrics.csv").read_bytes(),
            state_digest(load_file(path.parent / "student.safetensors")),
        )
    return found


def records(cli):
    return [read_record(path.parent) for path in cli.runs]


def workers(cli):
    """Processes that write into a log of a sweep."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            output = os.readlink(f"/proc/{pid}/fd/1")
            if output.startswith(str(cli.folder / "out" / "sweeps")):
                found.append(pid)
    return found


def test_five_methods_end_the_same_alone_and_as_a_cohort(kdbench, tmp_path_factory):
    code, said = kdbench("-m", TEMPERATURES)
    assert code == 0, said
    assert "5 runs share data and teacher" in said
    assert {record.cohort_size for record in records(kdbench)} == {5}
    alone = type(kdbench)(tmp_path_factory.mktemp("alone"))
    for temperature in TEMPERATURES.partition("=")[2].split(","):
        assert alone(f"temperature={temperature}")[0] == 0
    assert {record.cohort_size for record in records(alone)} == {1}
    for record in records(kdbench):  # of its own command, not of the process that did several
        assert record.command[0] == "kdbench-train"
        assert f"temperature={record.temperature}" in record.command
    assert results(alone) == results(kdbench)
    assert len(results(alone)) == 5


def test_a_sweep_trains_what_is_missing_and_the_same_run_once(kdbench, tmp_path):
    code, said = kdbench("-m", "method=scratch,kd", "temperature=constant,cosine", "seed=0")
    assert code == 0, said
    assert "4 jobs: 1 ask for the same run as another one, 0 are done already, 3 are" in said
    written = {path: path.read_bytes() for path in kdbench.runs}
    assert len(written) == 3
    assert len(list((tmp_path / "out" / "teachers").rglob("record.json"))) == 1
    folder = kdbench.runs[0].parent
    assert {path.name for path in (folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    code, said = kdbench("-m", "method=scratch,kd", "temperature=constant,cosine", "seed=0,1")
    assert code == 0, said
    assert "8 jobs: 2 ask for the same run as another one, 3 are done already, 3 are" in said
    assert len(kdbench.runs) == 6
    assert all(path.read_bytes() == content for path, content in written.items())
    code, said = kdbench("-m", "method=scratch", "seed=0,1")
    assert code == 0
    assert "0 are to be trained" in said
    assert len(list((tmp_path / "out" / "sweeps").iterdir())) == 2


def test_each_log_has_its_own_lines_and_what_concerns_all(kdbench):
    assert kdbench("-m", "temperature=constant,cosine")[0] == 0
    for path in kdbench.runs:
        lines = (path.parent / "train.log").read_text()
        name = read_record(path.parent).temperature
        other = {"constant": "cosine", "cosine": "constant"}[name]
        assert len(re.findall(rf"kd-{name}-seed0-\w+  epoch", lines)) == 3
        assert not re.findall(rf"kd-{other}-seed0-\w+  epoch", lines)
        assert "2 runs share data and teacher" in lines
        assert "resnet8  epoch" not in lines  # the training of the teacher has a log of its own


def test_slots_see_one_gpu_each_and_work_side_by_side(kdbench):
    gpus = "hydra.launcher.executor.gpus=[3,GPU-abc]"
    code, said = kdbench("-m", "seed=0,1,2,3", "method=scratch", gpus)
    assert code == 0, said
    seen = {record.environment["visible_gpus"] for record in records(kdbench)}
    assert seen == {"3", "GPU-abc"}
    started = [said.index(f"\ngpu {gpu}: ") for gpu in ("3", "GPU-abc")]
    assert max(started) < said.index("top-1")  # both had begun before one had ended


def test_whatever_fails_the_others_finish(kdbench, tmp_path):
    weights = f"teacher.weights=auto,{tmp_path}/no.pt"
    code, said = kdbench(
        "-m", "optim.lr=0.05,1e30", "temperature.tau=4,0", weights, "temperature=constant"
    )
    assert code == 9, said
    table = said[said.index("runs are not done:") :].splitlines()[2:]
    reasons = {}
    for line in table[1:-2]:
        reasons.setdefault(re.split(r"\s{2,}", line)[1], []).append(line)
    assert sorted(reasons) == ["2", "4", "5"]
    assert len(reasons["2"]) == 2
    assert all("tau must be a finite number > 0" in line for line in reasons["2"])
    assert len(reasons["4"]) == 4
    (diverged,) = reasons["5"]
    log = re.split(r"\s{2,}", diverged)[3]
    assert "Traceback" in Path(log).read_text()
    assert "ce, kd not finite at step" in diverged
    assert [record.status for record in records(kdbench)].count("done") == 1
    assert len(kdbench.runs) == 2  # what could not begin has no record


def test_a_killed_worker_goes_on_and_nothing_is_lost(kdbench, tmp_path_factory):
    # In each process; five steps are an epoch, and the first ones are the teacher's.
    killed = {"KDBENCH_KILL_AT": "step:7"}
    code, said = kdbench("-m", "temperature=constant,ctkd", environment=killed)
    assert code == 0, said
    assert said.count("the process ended with signal 9") == 3
    assert {record.attempts for record in records(kdbench)} == {3}
    quiet = type(kdbench)(tmp_path_factory.mktemp("quiet"))
    assert quiet("-m", "temperature=constant,ctkd")[0] == 0
    assert results(quiet) == results(kdbench)


def test_a_gpu_that_disappears_costs_nothing_but_time(kdbench):
    gpus = "hydra.launcher.executor.gpus=[0,1]"
    code, said = kdbench("-m", "seed=0,1,2", "method=scratch", gpus, dead_gpu="1")
    assert code == 0, said
    assert "gpu 1: the process ended with signal 9" in said
    assert {record.environment["visible_gpus"] for record in records(kdbench)} == {"0"}


def test_a_group_is_as_large_as_memory_allows(kdbench):
    code, said = kdbench("-m", "seed=0", TEMPERATURES, memory=4_500_000)
    assert code == 0, said
    assert "memory is enough for 2 of 5 runs at once" in said
    assert sorted(record.cohort_size for record in records(kdbench)) == [1, 2, 2, 2, 2]


def test_fail_fast_stops_early(kdbench):
    bad = "optim.lr=1e30,1e29,1e28,1e27"
    options = ("hydra.launcher.max_learners=1", "hydra.launcher.fail_fast=2")
    code, said = kdbench("-m", "method=scratch", bad, *options)
    assert code == 9, said
    assert "stopping (fail_fast=2)" in said
    assert len(kdbench.runs) == 2
    assert said.count("not begun, or stopped and saved") == 2


@pytest.mark.parametrize("how", ["interrupt", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_stopped_sweep_leaves_nothing_running_and_goes_on(kdbench, tmp_path_factory, how):
    sweep = ("-m", "temperature=constant,ctkd", "run.epochs=6")
    process = kdbench.start(*sweep, environment={"HOLD_AT": "epoch 4/6"})
    wait_for(lambda: "epoch 2/6" in kdbench.said, process)
    assert workers(kdbench)
    os.kill(process.pid, signal.SIGINT if how == "interrupt" else signal.SIGKILL)
    process.join()
    assert process.exitcode == (75 if how == "interrupt" else -signal.SIGKILL)
    wait_for(lambda: not workers(kdbench))
    assert not kdbench.runs
    if how == "interrupt":
        assert "The same command continues" in kdbench.said
    code, said = kdbench(*sweep)
    assert code == 0, said
    assert re.search(r"kd-ctkd-seed0-\w+ continues after step \d+", said)
    quiet = type(kdbench)(tmp_path_factory.mktemp("quiet"))
    assert quiet(*sweep)[0] == 0
    assert results(quiet) == results(kdbench)


def test_workers_are_ordinary_processes(tmp_path):
    """Once without the shortcut of the other tests: the installed command and its own workers."""
    arguments = [*TINY, "method=scratch", "seed=0", f"paths.outputs={tmp_path}/out"]
    command = [Path(sys.executable).parent / "kdbench-train", "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stderr
    (path,) = (tmp_path / "out" / "runs").rglob("record.json")
    assert read_record(path.parent).status == "done"


def test_a_run_that_somebody_else_trains_is_left_to_them(tmp_path, monkeypatch):
    first = resolve_config(compose_config([*TINY, "method=scratch", f"paths.outputs={tmp_path}"]))
    second = resolve_config(
        compose_config([*TINY, "method=scratch", "optim.lr=0.01", f"paths.outputs={tmp_path}"])
    )
    members = [
        Member(f"run{k}", run_key(plain), str(tmp_path / f"run{k}"), plain)
        for k, plain in enumerate((first, second))
    ]
    monkeypatch.setattr("kdbench.launch.worker.PATIENCE", 0.1)
    with run_lock(tmp_path / "run0"):
        work(tmp_path / "request.json", members, share=1.0)
    lines = Tail(tmp_path / "request.jsonl").lines()
    outcomes = {outcome.key: outcome for outcome in map(parse_outcome, lines)}
    assert outcomes[members[0].key].exit_code == 7
    assert "is being worked on by process" in outcomes[members[0].key].reason
    assert outcomes[members[1].key].status == DONE
