"""The training loop, in this process: its results, and that runs are independent."""

import errno
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key
from kdbench.digest import file_digest
from kdbench.engine import trainer as trainer_module
from kdbench.engine.job import Job
from kdbench.engine.run import train_job, train_jobs
from kdbench.errors import (
    CheckpointError,
    DataError,
    NumericalError,
    ResourceError,
    known_error,
)
from kdbench.objective.kl import KL
from kdbench.records.record import read_record
from kdbench.records.rows import read_metrics
from tests.helpers.harness import STATEFUL, TINY
from tests.helpers.records import CIRCUMSTANCES


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("KDBENCH_ALLOW_TARGETS", "tests.helpers.stateful,tests.helpers.stateful.net")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job(outputs, name, *overrides):
    cfg = compose_config([*TINY, f"paths.outputs={outputs}", *overrides])
    return Job(cfg, Path(outputs) / name, run_key(cfg))


def lasting(folder):
    record = asdict(read_record(folder))
    return (
        {k: v for k, v in record.items() if k not in CIRCUMSTANCES},
        (folder / "metrics.csv").read_bytes(),
        (folder / "student.safetensors").read_bytes(),
    )


COHORT = [
    ["method=kd"],
    ["method=scratch"],
    ["temperature=cosine", "seed=3", "run.data_seed=0"],
    [*STATEFUL[-3:], "run.data_seed=0"],
    [*STATEFUL[-3:], "seed=1", "run.data_seed=0"],
    ["student=resnet14", "optim.lr=0.01", "run.data_seed=0"],
]


def test_alone_and_together_are_the_same_to_the_last_bit(tmp_path):
    for position, overrides in enumerate(COHORT):
        train_jobs([job(tmp_path, f"alone{position}", *overrides)])
    together = [job(tmp_path, f"together{n}", *overrides) for n, overrides in enumerate(COHORT)]
    outcomes = train_jobs(together)
    for position, outcome in enumerate(outcomes):
        assert outcome.record.cohort_size == len(COHORT)
        alone = lasting(tmp_path / f"alone{position}")
        assert lasting(tmp_path / f"together{position}") == alone
    assert len({outcome.record.weights_digest for outcome in outcomes}) == len(COHORT)


def test_runs_stopped_at_different_steps_resume_together(tmp_path, monkeypatch):
    jobs = [job(tmp_path, f"run{n}", *overrides) for n, overrides in enumerate(COHORT[:3])]
    whole = [job(tmp_path, f"whole{n}", *overrides) for n, overrides in enumerate(COHORT[:3])]
    train_jobs(whole)

    def stop_after(steps, these):
        count = 0

        def step(name):
            nonlocal count
            count += name == "step"
            if count == steps:
                raise KeyboardInterrupt

        monkeypatch.setattr(trainer_module.fault, "point", step)
        with pytest.raises(KeyboardInterrupt):
            train_jobs(these)
        monkeypatch.undo()

    stop_after(7, jobs[:1])  # an epoch and two steps: the epoch is kept
    stop_after(12, jobs[1:2])
    train_jobs(jobs)
    for n in range(3):
        assert lasting(tmp_path / f"run{n}") == lasting(tmp_path / f"whole{n}")


def test_the_teacher_is_queried_once_per_batch_and_never_changes(tmp_path, monkeypatch):
    from kdbench.teacher.teacher import Teacher

    sizes = []
    forward = Teacher.forward

    def counting(self, images):
        sizes.append(len(images))
        self.train()  # must have no effect
        return forward(self, images)

    train_jobs([job(tmp_path, "first", "method=kd")])  # trains the teacher
    weights = next((tmp_path / "teachers").rglob("student.safetensors"))
    before = load_file(weights)
    monkeypatch.setattr(Teacher, "forward", counting)
    outcomes = train_jobs([job(tmp_path, f"r{t}", f"temperature.tau={t}") for t in (1, 2, 3)])
    # Three epochs of training images; logits of the test set are cached by the run before.
    assert sum(sizes) == 3 * 40
    assert {o.record.teacher_digest for o in outcomes} == {
        read_record(tmp_path / "first").teacher_digest
    }
    after = load_file(weights)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_from_scratch_no_teacher_is_trained(tmp_path):
    record = train_job(job(tmp_path, "run", "method=scratch").cfg, tmp_path / "run")
    assert not (tmp_path / "teachers").exists()
    assert record.teacher is None
    assert record.teacher_top1 is None
    assert record.temperature == "none"
    assert "agreement" not in record.test


def test_one_batch_can_be_overfitted(tmp_path):
    overrides = ["method=scratch", "dataset.train_size=16", "dataset.batch_size=16"]
    overrides += ["dataset.augmentation.pad=0", "dataset.augmentation.flip=false", "run.epochs=40"]
    train_job(job(tmp_path, "run", *overrides).cfg, tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[-1]["train/top1"] == 100
    assert rows[-1]["train/loss"] < 0.1 * rows[0]["train/loss"]


def test_each_epoch_has_a_complete_row(tmp_path):
    record = train_job(job(tmp_path, "run", "temperature=linear").cfg, tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    timings = read_metrics(tmp_path / "run" / "timings.csv")
    for written in ("metrics.csv", "timings.csv"):  # the raw text, not as parsed
        lines = (tmp_path / "run" / written).read_text().splitlines()[1:]
        assert [line.split(",")[0] for line in lines] == ["1", "2", "3"]
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in timings] == [1, 2, 3]
    with safe_open(tmp_path / "run" / "checkpoint" / "best.safetensors", "pt") as best:
        assert 1 <= int(best.metadata()["epoch"]) <= 3
    assert [row["step"] for row in rows] == [5, 10, 15]
    names = "loss ce kd top1"
    assert {f"train/{name}" for name in names.split()} <= rows[0].keys()
    names = "top1 top5 nll ece agreement teacher_kl logit_correlation"
    assert {f"test/{name}" for name in names.split()} <= rows[0].keys()
    names = [
        f"{who}_{what}" for who in ("teacher", "student") for what in ("mean", "min", "max", "std")
    ]
    assert {f"temperature/{name}" for name in names} <= rows[0].keys()
    assert rows[0]["temperature/teacher_max"] == 8.0
    assert rows[0]["temperature/student_mean"] > rows[2]["temperature/student_mean"] > 4.0
    assert record.top1_last == rows[-1]["test/top1"] == record.test["top1"]
    assert record.top1_best == max(row["test/top1"] for row in rows)
    timings = read_metrics(tmp_path / "run" / "timings.csv")
    assert all(
        row["perf/images_per_s"] > 0 and 0 < row["perf/teacher_share"] < 1 for row in timings
    )


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    from safetensors import safe_open

    record = train_job(job(tmp_path, "run", "method=scratch").cfg, tmp_path / "run")
    with safe_open(tmp_path / "run" / "checkpoint" / "best.safetensors", "pt") as file:
        assert float(file.metadata()["test/top1"]) == record.top1_best


def test_strict_reads_the_test_set_once_and_chooses_without_it(tmp_path, monkeypatch):
    from kdbench.data.tensors import TensorData

    read = []
    eval_batches = TensorData.eval_batches

    def counting(self, split):
        read.append(split)
        return eval_batches(self, split)

    monkeypatch.setattr(TensorData, "eval_batches", counting)
    strict = job(
        tmp_path, "run", "method=scratch", "run.protocol=strict", "dataset.val_fraction=0.25"
    )
    record = train_job(strict.cfg, tmp_path / "run")
    assert read == ["val", "val", "val", "test"]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert not [name for row in rows for name in row if name.startswith("test/")]
    assert (record.top1_best, record.val_top1_last) == (None, rows[-1]["val/top1"])
    assert record.val_top1_best == max(row["val/top1"] for row in rows)
    assert record.top1_last == record.test["top1"]


def explode_at(step):
    """A KL that is NaN from one step on, for the run whose temperature is 2."""
    call = KL.forward

    def exploding(self, outputs, temperatures):
        loss = call(self, outputs, temperatures)
        exploding.calls += temperatures.teacher[0, 0].item() == 2
        is_it = temperatures.teacher[0, 0].item() == 2 and exploding.calls > step
        return loss * float("nan") if is_it else loss

    exploding.calls = 0
    return exploding


def test_a_diverged_run_is_dropped_and_the_others_continue(tmp_path, monkeypatch):
    jobs = [job(tmp_path, f"tau{tau}", f"temperature.tau={tau}") for tau in (1, 2, 4)]
    train_jobs([job(tmp_path, "alone", "temperature.tau=4")])
    monkeypatch.setattr(KL, "forward", explode_at(step=7))
    outcomes = train_jobs(jobs)
    assert [o.record.status for o in outcomes] == ["done", "failed", "done"]
    assert isinstance(outcomes[1].error, NumericalError)
    failed = read_record(tmp_path / "tau2")
    assert failed.reason.startswith("kd not finite at step 7 ")
    assert "student temperature max=2" in failed.reason
    assert (failed.top1_last, failed.epochs_done) == (None, 1)
    assert not (tmp_path / "tau2" / "student.safetensors").exists()
    assert lasting(tmp_path / "tau4") == lasting(tmp_path / "alone")


def test_a_decoder_killed_during_a_step_fails_no_single_run(tmp_path, monkeypatch):
    def die(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    jobs = [job(tmp_path, f"tau{tau}", f"temperature.tau={tau}") for tau in (1, 2)]
    monkeypatch.setattr(KL, "forward", die)
    with pytest.raises(RuntimeError) as caught:
        train_jobs(jobs)
    assert known_error(caught.value).exit_code == 6
    assert not any((one.folder / "record.json").exists() for one in jobs)


def test_a_single_run_that_diverges_raises_at_once(tmp_path, monkeypatch):
    from kdbench.engine.trainer import Trainer

    steps = []
    train_step = Trainer.train_step
    train_jobs([job(tmp_path, "other")])  # trains the teacher
    monkeypatch.setattr(
        Trainer, "train_step", lambda self, *a: steps.append(a) or train_step(self, *a)
    )
    monkeypatch.setattr(KL, "forward", explode_at(step=0))
    with pytest.raises(NumericalError, match="kd not finite at step 0"):
        train_job(job(tmp_path, "run", "temperature.tau=2").cfg, tmp_path / "run")
    assert read_record(tmp_path / "run").status == "failed"
    assert len(steps) == 1


def test_a_finished_run_is_not_repeated_and_a_changed_one_is(tmp_path):
    first = train_jobs([job(tmp_path, "run", "method=scratch")])[0].record
    written = (tmp_path / "run" / "record.json").read_bytes()
    assert train_jobs([job(tmp_path, "run", "method=scratch")])[0].record == first
    assert (tmp_path / "run" / "record.json").read_bytes() == written
    record = tmp_path / "run" / "record.json"
    record.write_text(record.read_text().replace("done", "dine"))
    again = train_jobs([job(tmp_path, "run", "method=scratch")])[0].record
    assert again.weights_digest == first.weights_digest
    assert again.status == "done"


def test_a_student_may_start_from_a_file_identified_by_content(tmp_path):
    first = train_job(job(tmp_path, "first", "method=scratch").cfg, tmp_path / "first")
    file = tmp_path / "start.safetensors"
    shutil.copy(tmp_path / "first" / "student.safetensors", file)
    tuning = ["method=scratch", "seed=1", f"student.weights={file}"]
    tuned = job(tmp_path, "tuned", *tuning)
    record = train_job(tuned.cfg, tuned.folder)
    fresh = train_job(job(tmp_path, "fresh", *tuning[:2]).cfg, tmp_path / "fresh")
    assert record.initial_digest == file_digest(file)
    assert record.weights_digest not in (first.weights_digest, fresh.weights_digest)
    losses = [
        read_metrics(tmp_path / name / "metrics.csv")[0]["train/loss"]
        for name in ("tuned", "fresh")
    ]
    assert losses[0] < losses[1]  # starts from the trained weights
    shutil.copy(tmp_path / "fresh" / "student.safetensors", file)
    assert job(tmp_path, "other", *tuning).key != tuned.key  # the same name, another file


def test_one_seed_repeats_and_two_differ(tmp_path):
    digests = [
        train_job(
            job(tmp_path, name, "method=scratch", f"seed={seed}").cfg, tmp_path / name
        ).weights_digest
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert digests[0] == digests[1] != digests[2]


def test_methods_start_from_the_same_weights(tmp_path):
    from kdbench.engine.assemble import build_learner
    from kdbench.model.compute import choose_compute

    compute = choose_compute("cpu", "fp32", True)
    states = [
        build_learner(job(tmp_path, "x", *overrides).cfg, compute).student.state_dict()
        for overrides in (["method=scratch"], ["method=kd"], ["temperature=cosine"])
    ]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_a_bad_teacher_is_rejected(tmp_path):
    good = job(tmp_path, "run", "teacher.expected_top1=99")
    with pytest.raises(CheckpointError, match=r"reaches .* expected 99\.00 %"):
        train_job(good.cfg, tmp_path / "run")
    train_job(job(tmp_path, "other", "teacher.expected_top1=5").cfg, tmp_path / "other")


@pytest.mark.parametrize("precision", ["bf16"])
def test_lower_precision_trains_with_float32_losses(tmp_path, precision):
    record = train_job(job(tmp_path, "run", f"run.precision={precision}").cfg, tmp_path / "run")
    assert record.precision == precision
    weights = load_file(tmp_path / "run" / "student.safetensors")
    assert weights["fc.weight"].dtype == torch.float32


def test_memory_format_changes_rounding_only(tmp_path):
    rows = []
    for name, flag in [("on", "true"), ("off", "false")]:
        overrides = ["method=scratch", f"speed.channels_last={flag}", "run.epochs=1"]
        train_job(job(tmp_path, name, *overrides).cfg, tmp_path / name)
        rows.append(read_metrics(tmp_path / name / "metrics.csv")[0]["train/loss"])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


class Listener:
    """A tracker that stores points."""

    every_steps = 2

    def __init__(self):
        self.points = []

    def log_point(self, point):
        self.points.append(point)

    def start(self, *_):
        pass

    log = finish = start

    def state_dict(self):
        return {}


def test_points_within_epochs_are_read_only_for_a_tracker(tmp_path, monkeypatch):
    from kdbench.engine import assemble
    from kdbench.engine.metrics import TrainMeter

    read = []
    point = TrainMeter.point
    monkeypatch.setattr(TrainMeter, "point", lambda self: read.append(1) or point(self))
    train_jobs([job(tmp_path, "without", "temperature=cosine")])
    assert read == []
    listener, build = Listener(), assemble.build
    monkeypatch.setattr(
        assemble, "build", lambda node: listener if "tracker" in str(node) else build(node)
    )
    train_jobs([job(tmp_path, "with", "temperature=cosine")])
    assert lasting(tmp_path / "with") == lasting(tmp_path / "without")
    assert [point["step"] for point in listener.points] == [2, 4, 6, 8, 10, 12, 14]
    assert len(read) == 7
    first = listener.points[0]
    names = ("loss", "ce", "kd", "temperature_teacher_mean", "temperature_student_max")
    assert {f"batch/{name}" for name in names} <= first.keys()
    assert first["batch/loss"] == pytest.approx(first["batch/ce"] + first["batch/kd"])


def test_runs_with_one_label_have_their_own_rows_and_logs(tmp_path, monkeypatch, caplog):
    from kdbench.records.identity import RunIdentity
    from kdbench.records.log import run_log

    monkeypatch.setattr(RunIdentity, "label", "the-same")
    caplog.set_level("INFO")
    jobs = [job(tmp_path, f"lr{lr}", "method=scratch", f"optim.lr={lr}") for lr in (0.1, 0.02)]
    with ExitStack() as logs:
        for each in jobs:
            logs.enter_context(run_log(each.folder, each.key))
        train_jobs(jobs)
    for each in jobs:
        rows = read_metrics(each.folder / "metrics.csv")
        lines = (each.folder / "train.log").read_text()
        losses = re.findall(r"epoch \d/3  loss (\S+)", lines)
        assert losses == [f"{row['train/loss']:.3f}" for row in rows]


CAUTIONS = {
    "larger than the dataset: every step sees all 40": ["dataset.batch_size=64"],
    "an epoch is a single step: dataset.batch_size=40, 40 training images": [
        "dataset.batch_size=40"
    ],
    "the teacher is at chance level": ["method=kd", "teacher.expected_top1=0"],
    "the student is at chance level": ["dataset.num_classes=4"],
}


@pytest.mark.parametrize("message", CAUTIONS)
def test_likely_mistakes_are_logged_and_recorded(tmp_path, monkeypatch, caplog, message):
    measured = lambda logits, targets, teacher: {"top1": 2.0}  # noqa: E731
    if "chance" in message:
        for module in ("run", "trainer"):
            monkeypatch.setattr(f"kdbench.engine.{module}.evaluate_logits", measured)
    overrides = ["method=scratch", *CAUTIONS[message], "teacher.tolerance=100"]
    record = train_job(job(tmp_path, "run", *overrides).cfg, tmp_path / "run")
    assert [text for text in record.warnings if message in text], record.warnings
    assert message in caplog.text
    assert read_record(tmp_path / "run").warnings == record.warnings


def test_an_ordinary_run_has_no_warnings(tmp_path, monkeypatch):
    measured = lambda logits, targets, teacher: {"top1": 60.0}  # noqa: E731
    monkeypatch.setattr("kdbench.engine.trainer.evaluate_logits", measured)
    ordinary = job(tmp_path, "run", "method=scratch")
    assert train_job(ordinary.cfg, tmp_path / "run").warnings == []


def test_a_failed_first_checkpoint_fails_only_its_run(tmp_path, monkeypatch):
    from kdbench.engine.state import Checkpoints

    jobs = [job(tmp_path, f"run{n}", "method=scratch", f"optim.lr=0.0{n}") for n in (1, 2, 3)]
    save = Checkpoints.save

    def full(self, step, state):
        if "run2" in str(self.folder):
            raise ResourceError("no space")
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", full)
    outcomes = train_jobs(jobs)
    assert [o.record.status for o in outcomes] == ["done", "failed", "done"]
    assert isinstance(outcomes[1].error, ResourceError)
    failed = read_record(tmp_path / "run2")
    assert failed.metrics_digest == file_digest(tmp_path / "run2" / "metrics.csv")
    monkeypatch.undo()
    assert train_jobs(jobs[1:2])[0].record.status == "done"


def test_a_run_on_a_full_disk_does_not_affect_the_others(tmp_path, monkeypatch):
    from kdbench import files

    write = files._write_new

    def full(path, payload):
        if "run2" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, payload)

    jobs = [job(tmp_path, f"run{n}", "method=scratch", f"optim.lr=0.0{n}") for n in (1, 2)]
    monkeypatch.setattr(files, "_write_new", full)
    first, second = train_jobs(jobs)
    assert first.record.status == "done"
    assert second.record is None
    assert isinstance(second.error, ResourceError)
    assert "run2" in str(second.error)


def test_an_error_of_all_runs_is_in_each_record(tmp_path, monkeypatch):
    def no_data(cfg, compute):
        raise DataError("the images are gone")

    monkeypatch.setattr("kdbench.engine.run.open_data", no_data)
    jobs = [job(tmp_path, f"run{n}", "method=scratch", f"optim.lr=0.0{n}") for n in (1, 2)]
    with pytest.raises(DataError):
        train_jobs(jobs)
    for each in jobs:
        record = read_record(each.folder)
        assert (record.status, record.reason) == ("failed", "the images are gone")
        assert record.run_key == each.key
    monkeypatch.undo()
    done = train_jobs(jobs)
    assert [outcome.record.status for outcome in done] == ["done", "done"]


def test_a_finished_run_needs_no_lock(tmp_path, monkeypatch):
    first = train_jobs([job(tmp_path, "run", "method=scratch")])[0].record

    def read_only(folder, patience=0.0):
        raise ResourceError("read-only")

    monkeypatch.setattr("kdbench.engine.run.run_lock", read_only)
    assert train_jobs([job(tmp_path, "run", "method=scratch")])[0].record == first


def test_a_broken_wandb_installation_is_a_config_error(monkeypatch):
    import sys

    from kdbench.errors import ConfigError
    from kdbench.tracker.wandb import _import_wandb

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "wandb":
                raise AttributeError("module 'google' has no attribute 'protobuf'")

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"AttributeError: .*protobuf.*tracker=csv"):
        _import_wandb()
