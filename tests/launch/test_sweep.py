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
from safetensors.torch import load_file

from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config, run_key
from kdbench.digest import state_digest
from kdbench.errors import ConfigError
from kdbench.launch.group import DONE, HELD, RETURNED, Member, Tail, parse_outcome
from kdbench.launch.limit import check_points, count_points, read_limit
from kdbench.launch.worker import work
from kdbench.records.lock import run_lock
from kdbench.records.record import read_record
from tests.helpers.commands import Cli
from tests.helpers.harness import TINY
from tests.helpers.records import CIRCUMSTANCES
from tests.helpers.waiting import wait_for

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
    """Results that must not depend on how a run was started, by run key."""
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
    """Processes that write to a log of a sweep."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            output = os.readlink(f"/proc/{pid}/fd/1")
            if output.startswith(str(cli.folder / "out" / "sweeps")):
                found.append(pid)
    return found


@pytest.mark.slow
def test_five_methods_end_the_same_alone_and_as_a_cohort(kdbench, tmp_path_factory):
    code, said = kdbench("-m", TEMPERATURES)
    assert code == 0, said
    assert "5 runs share data and teacher" in said
    assert {record.cohort_size for record in records(kdbench)} == {5}
    alone = type(kdbench)(tmp_path_factory.mktemp("alone"))
    for temperature in TEMPERATURES.partition("=")[2].split(","):
        assert alone(f"temperature={temperature}")[0] == 0
    assert {record.cohort_size for record in records(alone)} == {1}
    for record in records(kdbench):  # its own command, not that of the process of the cohort
        assert record.command[0] == "kdbench-train"
        assert f"temperature={record.temperature}" in record.command
    assert results(alone) == results(kdbench)
    assert len(results(alone)) == 5


def test_a_sweep_trains_only_missing_runs_and_each_once(kdbench, tmp_path):
    code, said = kdbench("-m", "method=scratch,kd", "temperature=constant,cosine", "seed=0")
    assert code == 0, said
    assert "4 jobs: 1 duplicate, 0 already done, 3 to train" in said
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
    assert "8 jobs: 2 duplicates, 3 already done, 3 to train" in said
    assert len(kdbench.runs) == 6
    assert all(path.read_bytes() == content for path, content in written.items())
    code, said = kdbench("-m", "method=scratch", "seed=0,1")
    assert code == 0
    assert "0 to train" in said
    assert len(list((tmp_path / "out" / "sweeps").iterdir())) == 2


def test_each_log_has_its_own_lines_and_those_of_all_runs(kdbench):
    assert kdbench("-m", "temperature=constant,cosine")[0] == 0
    for path in kdbench.runs:
        lines = (path.parent / "train.log").read_text()
        name = read_record(path.parent).temperature
        other = {"constant": "cosine", "cosine": "constant"}[name]
        assert len(re.findall(rf"kd-{name}-seed0-\w+  epoch", lines)) == 3
        assert not re.findall(rf"kd-{other}-seed0-\w+  epoch", lines)
        assert "2 runs share data and teacher" in lines
        assert "resnet8  epoch" not in lines  # the training of the teacher has a log of its own


@pytest.mark.slow
def test_slots_see_one_gpu_each_and_work_side_by_side(kdbench):
    gpus = "hydra.launcher.executor.gpus=[3,GPU-abc]"
    code, said = kdbench("-m", "seed=0,1,2,3", "method=scratch", gpus)
    assert code == 0, said
    seen = {record.environment["visible_gpus"] for record in records(kdbench)}
    assert seen == {"3", "GPU-abc"}
    started = [said.index(f"\ngpu {gpu}: ") for gpu in ("3", "GPU-abc")]
    assert max(started) < said.index("top-1")  # both had begun before one had ended


def test_a_failed_run_does_not_stop_the_others(kdbench, tmp_path):
    weights = f"teacher.weights=auto,{tmp_path}/no.pt"
    code, said = kdbench(
        "-m", "optim.lr=0.05,1e30", "temperature.tau=4,0", weights, "temperature=constant"
    )
    assert code == 9, said
    table = said[said.index("unfinished: ") :].splitlines()[2:]
    reasons = {}
    for line in table[2:]:
        if not re.search(r"\s{2,}\d\s{2,}", line):
            break  # the table has ended
        reasons.setdefault(re.split(r"\s{2,}", line)[1], []).append(line)
    assert sorted(reasons) == ["2", "4", "5"]
    assert len(reasons["2"]) == 2
    assert all("tau must be a finite number > 0" in line for line in reasons["2"])
    assert len(reasons["4"]) == 4
    (diverged,) = reasons["5"]
    log = re.split(r"\s{2,}", diverged)[3]
    assert "Traceback" in Path(log).read_text()
    assert "ce, kd not finite at step" in diverged
    statuses = [record.status for record in records(kdbench)]
    assert sorted(statuses) == ["done", "failed", "failed", "failed"]  # no key, no record


@pytest.mark.slow
def test_a_killed_worker_is_resumed_without_loss(kdbench, tmp_path_factory):
    # In each process; five steps are an epoch, and the first ones are the teacher's.
    killed = {"KDBENCH_KILL_AT": "step:7"}
    code, said = kdbench("-m", "temperature=constant,ctkd", environment=killed)
    assert code == 0, said
    assert said.count("the process ended with signal 9") == 3
    assert {record.attempts for record in records(kdbench)} == {3}
    quiet = type(kdbench)(tmp_path_factory.mktemp("quiet"))
    assert quiet("-m", "temperature=constant,ctkd")[0] == 0
    assert results(quiet) == results(kdbench)


def test_a_lost_gpu_costs_nothing_but_time(kdbench):
    gpus = "hydra.launcher.executor.gpus=[0,1]"
    code, said = kdbench("-m", "seed=0,1,2", "method=scratch", gpus, dead_gpu="1")
    assert code == 0, said
    assert "gpu 1: the process ended with signal 9" in said
    assert {record.environment["visible_gpus"] for record in records(kdbench)} == {"0"}


@pytest.mark.slow
def test_a_group_is_as_large_as_memory_allows(kdbench):
    code, said = kdbench("-m", "seed=0", TEMPERATURES, memory=4_500_000)
    assert code == 0, said
    assert "2 of 5 runs fit in memory at once" in said
    assert sorted(record.cohort_size for record in records(kdbench)) == [1, 2, 2, 2, 2]


def test_fail_fast_stops_early(kdbench):
    bad = "optim.lr=1e30,1e29,1e28,1e27"
    options = ("hydra.launcher.max_learners=1", "hydra.launcher.fail_fast=2")
    code, said = kdbench("-m", "method=scratch", bad, *options)
    assert code == 9, said
    assert "stopping (fail_fast=2)" in said
    assert len(kdbench.runs) == 2
    assert said.count("not started, or stopped and saved") == 2


@pytest.mark.parametrize("how", ["interrupt", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_stopped_sweep_leaves_no_process_and_resumes(kdbench, tmp_path_factory, how):
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


@pytest.mark.slow
def test_workers_are_ordinary_processes(tmp_path):
    """Without the shortcut of the other tests: the installed command and real workers."""
    arguments = [*TINY, "method=scratch", "seed=0", f"paths.outputs={tmp_path}/out"]
    command = [Path(sys.executable).parent / "kdbench-train", "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stderr
    (path,) = (tmp_path / "out" / "runs").rglob("record.json")
    assert read_record(path.parent).status == "done"


def test_a_run_locked_by_another_process_is_left_alone(tmp_path):
    first = resolve_config(compose_config([*TINY, "method=scratch", f"paths.outputs={tmp_path}"]))
    second = resolve_config(
        compose_config([*TINY, "method=scratch", "optim.lr=0.01", f"paths.outputs={tmp_path}"])
    )
    members = [
        Member(f"run{k}", run_key(plain), str(tmp_path / f"run{k}"), plain)
        for k, plain in enumerate((first, second))
    ]
    with run_lock(tmp_path / "run0"):
        work(tmp_path / "request.json", members, share=1.0)
    lines = Tail(tmp_path / "request.jsonl").lines()
    outcomes = {outcome.key: outcome for outcome in map(parse_outcome, lines)}
    assert outcomes[members[0].key].status == HELD
    assert "is in use by process" in outcomes[members[0].key].reason
    assert outcomes[members[1].key].status == DONE


def make_members(tmp_path, *overrides):
    plains = [
        resolve_config(compose_config([*TINY, f"paths.outputs={tmp_path}", *each.split()]))
        for each in overrides
    ]
    return [
        Member(f"run{k}", run_key(plain), str(tmp_path / f"run{k}"), plain)
        for k, plain in enumerate(plains)
    ]


def train_in_worker(tmp_path, members):
    work(tmp_path / "request.json", members, share=1.0)
    lines = Tail(tmp_path / "request.jsonl").lines()
    outcomes = {outcome.key: outcome for outcome in map(parse_outcome, lines)}
    return [outcomes[member.key] for member in members]


def test_a_run_that_does_not_fit_with_the_others_is_returned(tmp_path, monkeypatch):
    import torch

    from kdbench.engine.learner import Learner

    members = make_members(tmp_path, "method=scratch", "method=scratch optim.lr=0.01")
    train_step = Learner.train_step

    def step(self, batch, teacher, progress):
        if self.lr < 0.02 and progress.step == 7:
            torch.empty(1 << 60, dtype=torch.uint8)  # raises the allocator's own error
        train_step(self, batch, teacher, progress)

    monkeypatch.setattr(Learner, "train_step", step)
    first, second = train_in_worker(tmp_path, members)
    assert (first.status, second.status) == (DONE, RETURNED)
    assert not (tmp_path / "run1" / "record.json").exists()
    (tmp_path / "request.jsonl").unlink()
    (alone,) = train_in_worker(tmp_path, members[1:])  # by itself it fails
    assert (alone.status, alone.exit_code) == ("failed", 6)
    assert "out of memory on cpu in step 7 with dataset.batch_size=8" in alone.reason
    assert "the student resnet8" in alone.reason
    assert read_record(tmp_path / "run1").status == "failed"


def test_a_log_ends_with_the_lines_of_its_own_run(tmp_path, caplog):
    caplog.set_level("INFO")
    members = make_members(tmp_path, "method=scratch", "method=scratch optim.lr=0.01")
    outcomes = train_in_worker(tmp_path, members)
    for member, outcome in zip(members, outcomes, strict=True):
        lines = (Path(member.folder) / "train.log").read_text().splitlines()
        ends = [line for line in lines if ": top-1 " in line]
        assert len(ends) == 1
        assert f"top-1 {outcome.top1:.2f} %" in ends[0]


def test_an_unusable_folder_fails_only_its_run(kdbench, tmp_path):
    seeds = range(4)
    folders = {}
    for seed in seeds:
        outputs = f"paths.outputs={tmp_path}/out"
        cfg = compose_config([outputs, *TINY, "method=scratch", f"seed={seed}"])
        name = f"seed{seed}-{run_key(cfg)[:10]}"
        folders[seed] = tmp_path / "out/runs/fake/resnet8_resnet8/scratch-none" / name
    folders[0].parent.mkdir(parents=True)
    folders[0].write_text("a file")
    folders[1].symlink_to(tmp_path / "nowhere")
    (folders[2] / ".hydra").mkdir(parents=True)
    (folders[2] / "train.log").mkdir()
    code, said = kdbench("-m", "method=scratch", "seed=0,1,2,3")
    assert code == 9, said
    assert "Traceback" not in said
    assert "unfinished: 3 of 4 runs" in said
    assert f"{folders[0]} is a file" in said
    assert f"{folders[1]} is a link to {tmp_path}/nowhere" in said
    assert f"{folders[2]}/train.log is a folder, where kdbench needs a file" in said
    assert read_record(folders[3]).status == "done"
    assert folders[0].read_text() == "a file"


def test_a_dry_run_lists_what_is_missing_and_trains_nothing(kdbench, tmp_path):
    assert kdbench("-m", "method=scratch", "seed=0,1")[0] == 0
    before = sorted(path for path in (tmp_path / "out" / "runs").rglob("*"))
    sweep = ("-m", "method=scratch,kd", "temperature.tau=2,3", "seed=1,2")
    code, said = kdbench(*sweep, "hydra.launcher.dry=true")
    assert code == 0, said
    assert "8 jobs: 2 duplicates, 1 already done, 5 to train" in said
    assert len(re.findall(r"kd-constant-seed\d-\w+: .*temperature.tau=[23]", said)) == 4
    assert re.search(r"kd +fake, resnet8_resnet8 +4 +4 missing", said), said
    assert re.search(r"scratch +fake, resnet8_resnet8 +4 +2 done, 2 missing", said)
    assert re.search(r"resnet8 \(.*\) + to be trained first", said)
    after = sorted(path for path in (tmp_path / "out" / "runs").rglob("*"))
    assert [path for path in after if path.name != "multirun.yaml"] == [
        path for path in before if path.name != "multirun.yaml"
    ]
    assert not (tmp_path / "out" / "teachers").exists()


@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        (["seed=range(1,1000000000)", "method=scratch,kd"], 2 * 999_999_999),
        (["seed=range(5)", "temperature.tau=choice(1,2,3)", "run.epochs=2"], 15),
        (["seed=range(5,0,-2)"], 3),
        (["temperature.tau=interval(1,8)"], 1),
    ],
)
def test_points_are_counted_without_listing_them(overrides, points):
    assert count_points(overrides) == points


def test_more_points_than_the_limit_are_refused():
    assert read_limit([]) == 5000
    assert read_limit(["hydra.launcher.max_points=7"]) == 7
    assert read_limit(["hydra.launcher.max_points=null"]) is None
    check_points(5000, 5000)
    check_points(10**6, None)
    with pytest.raises(ConfigError, match=r"5,001 points.*max_points=5001"):
        check_points(5001, 5000)


def test_a_sweep_waits_for_runs_of_other_processes(kdbench, tmp_path):
    outputs = f"paths.outputs={tmp_path}/out"
    cfg = compose_config([outputs, *TINY, "method=scratch", "seed=1"])
    folder = tmp_path / "out/runs/fake/resnet8_resnet8/scratch-none"
    with run_lock(folder / f"seed1-{run_key(cfg)[:10]}"):
        sweep = kdbench.start("-m", "method=scratch", "seed=0,1")
        wait_for(lambda: "waiting for scratch-none-seed1" in kdbench.said)
        assert f"is in use by process {os.getpid()} on " in kdbench.said
        wait_for(lambda: len(kdbench.runs) == 1)  # the other one does not wait
    sweep.join()
    assert sweep.exitcode == 0, kdbench.said
    assert [record.status for record in records(kdbench)] == ["done", "done"]


@pytest.mark.slow
def test_thread_variables_apply_to_single_runs_and_sweeps(tmp_path):
    """OMP_NUM_THREADS=1 on more cores, and no run.threads: the same bits."""
    tiny = [override for override in TINY if not override.startswith("run.threads")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    methods = "scratch,kd,dkd,nkd,dist"

    def train(outputs, *arguments):
        command = [sys.executable, "-m", "kdbench.cli.train", *tiny, f"paths.outputs={outputs}"]
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    train(tmp_path / "together", "-m", f"method={methods}")
    for method in methods.split(","):
        train(tmp_path / "alone", f"method={method}")
    weights = [
        {
            path.parent.name: path.read_bytes()
            for path in (tmp_path / name / "runs").rglob("student.safetensors")
        }
        for name in ("together", "alone")
    ]
    assert len(weights[0]) == 5
    assert weights[0] == weights[1]
    for path in (tmp_path / "together" / "runs").rglob("record.json"):
        assert read_record(path.parent).threads == 1
