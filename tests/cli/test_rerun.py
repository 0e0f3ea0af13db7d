"""A run is repeated from its record, and the answer is one of three."""

import json
import shutil
from dataclasses import replace

import pytest

from kdbench.digest import file_digest
from kdbench.records.collect import collect
from kdbench.records.record import read_record
from kdbench.records.rows import read_metrics, write_metrics
from tests.helpers.commands import Cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run that was distilled."""
    cli = Cli(tmp_path_factory.mktemp("trained"))
    code, output = cli("temperature=random")  # draws numbers
    assert code == 0, output
    return cli.runs[0].parent


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, alone."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def rerun(tmp_path):
    """Exit code and output; everything is written below ``tmp_path / "out"``."""
    cli = Cli(tmp_path)
    here = f"paths.outputs={tmp_path}/out"
    return lambda *arguments: cli.other("kdbench.cli.rerun", *arguments, here)


def change(run, **changes):
    replace(read_record(run), **changes).write(run)


def read_result(tmp_path, name="run"):
    return json.loads((tmp_path / "out" / "reruns" / name / "repetition.json").read_text())


def test_the_same_bits_and_the_original_as_it_was(rerun, run, tmp_path):
    before = {path: file_digest(path) for path in run.rglob("*") if path.is_file()}
    code, output = rerun(run)
    assert code == 0, output
    assert "bit-identical" in output
    assert "differ by 0.00 points" in output
    assert "differ by 0 %" in output
    assert {path: file_digest(path) for path in run.rglob("*") if path.is_file()} == before
    again = read_record(tmp_path / "out" / "reruns" / "run")
    assert again.weights_digest == read_record(run).weights_digest
    assert again.metrics_digest == read_record(run).metrics_digest
    assert read_result(tmp_path)["verdict"] == "bit-identical"
    found = collect(tmp_path / "out" / "reruns")  # no table counts it as a run
    assert (found.runs, found.unfinished, found.problems) == ([], [], [])
    # The same command once more trains nothing, and compares what it has.
    code, output = rerun(run)
    assert code == 0
    assert "already holds a repetition" in output
    assert "epoch" not in output


def test_a_record_is_enough(rerun, run, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "record.json", tmp_path / "alone")
    code, output = rerun(tmp_path / "alone")  # the teacher is trained again
    assert code == 0, output
    assert "bit-identical" in output
    assert "training loss not compared: metrics.csv of the run missing" in output
    assert "training the teacher" in output
    teacher = next((tmp_path / "out" / "teachers" / "fake").iterdir())
    assert read_record(teacher).weights_digest == read_record(run).teacher_digest


def test_other_bits_and_what_changed_around_them(rerun, run, tmp_path):
    record = read_record(run)
    old = {**record.environment, "versions": {**record.environment["versions"], "torch": "1.0"}}
    change(run, weights_digest="0" * 64, cohort_size=3, environment=old)
    code, output = rerun(run)
    assert code == 0, output
    assert "within tolerance" in output
    assert "cohort_size: 3 -> 1" in output
    assert f"versions.torch: 1.0 -> {record.environment['versions']['torch']}" in output
    changed = {entry["path"] for entry in read_result(tmp_path)["changes"]}
    assert {"cohort_size", "versions.torch"} <= changed
    assert "threads" not in changed
    change(run, top1_last=record.top1_last + 60)
    code, output = rerun(run)
    assert code == 11
    assert "different\n" in output
    assert "differ by 60.00 points" in output
    assert rerun(run, "--tolerance", "61")[0] == 0


def test_a_loss_that_is_far_off_is_different(rerun, run):
    metrics = run / "metrics.csv"
    rows = read_metrics(metrics)
    rows[-1]["train/loss"] *= 1.2
    write_metrics(metrics, rows)
    change(run, metrics_digest=file_digest(metrics))
    code, output = rerun(run)
    assert code == 11
    assert "differ by 17 %, tolerance 5 %" in output


def test_other_threads_are_set_and_reported(rerun, run):
    change(run, threads=2)
    code, output = rerun(run, "run.threads=1")
    assert code == 0, output
    assert "threads: 2 -> 1" in output


@pytest.mark.slow
def test_a_teacher_from_a_file(rerun, trained, tmp_path):
    outputs = next(p for p in trained.parents if p.name == "out")
    teacher = next((outputs / "teachers" / "fake").iterdir()) / "student.safetensors"
    code, output = Cli(tmp_path)("temperature=random", f"teacher.weights={teacher}")
    assert code == 0, output
    run = Cli(tmp_path).runs[0].parent
    assert read_record(run).teacher_config["weights"] == str(teacher)
    shutil.rmtree(run / ".hydra")
    code, output = rerun(run)
    assert code == 0, output
    assert "bit-identical" in output
    other = trained / "student.safetensors"
    code, output = rerun(run, f"teacher.weights={other}", "--out", tmp_path / "again")
    assert code == 4
    assert f"{other} is not the teacher of the run" in output
    assert not (tmp_path / "again").exists()
    code, output = rerun(run, "teacher.weights=/no/file")
    assert code == 4
    assert "/no/file" in output
    change(run, teacher_config=None)  # as older versions wrote it
    code, output = rerun(run)
    assert code == 4
    assert "does not say where the weights of the teacher resnet8 were" in output
    code, output = rerun(run, f"teacher.weights={teacher}", "--out", tmp_path / "again")
    assert code == 0, output
    assert "bit-identical" in output


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "words"),
    [
        ({"dataset_digest": "0"}, [], 3, ["is not the dataset of the run", "paths.data=DIR"]),
        ({"status": "failed", "reason": "nan"}, [], 2, ["failed (nan)", "kdbench-train"]),
        ({}, ["seed=4"], 2, ["seed determined the result", "allowed are paths"]),
        ({}, ["run.device=cuda:99"], 2, ["run.device='cuda:99'"]),
        ({}, ["run.device"], 2, ["'run.device' is not KEY=VALUE"]),
        ({}, ["--tolerance", "nan"], 2, ["--tolerance=nan must be >= 0"]),
        ({}, ["--out", "RUN"], 2, ["is the folder of the run itself"]),
        ({}, ["--out", "OTHER"], 2, ["holds another run", "--out"]),
    ],
)
def test_mistakes_have_codes_and_messages_without_tracebacks(
    rerun, run, tmp_path, changes, arguments, code, words
):
    change(shutil.copytree(run, tmp_path / "other"), run_key="k" * 64)
    change(run, **changes)
    places = {"RUN": run, "OTHER": tmp_path / "other"}
    found, output = rerun(run, *(places.get(argument, argument) for argument in arguments))
    assert found == code, output
    for word in words:
        assert word in output
    assert "Traceback" not in output
    assert not (tmp_path / "out" / "reruns").exists()


def test_a_folder_that_is_no_run(rerun, tmp_path):
    code, output = rerun(tmp_path)
    assert code == 4
    assert "has no record.json" in output
