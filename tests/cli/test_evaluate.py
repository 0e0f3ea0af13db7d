"""The evaluation of a trained network, and its export."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from kdbench.records.evaluation import Evaluation
from kdbench.records.record import read_record
from tests.helpers.commands import Cli
from tests.helpers.harness import TINY

DATA = [o for o in TINY if o.startswith("dataset.")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run that was distilled."""
    cli = Cli(tmp_path_factory.mktemp("trained"))
    code, output = cli("temperature=cosine")
    assert code == 0, output
    return cli.runs[0].parent


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, with everything around it."""
    outputs = next(p for p in trained.parents if p.name == "out")
    shutil.copytree(outputs, tmp_path / "out")
    return tmp_path / "out" / trained.relative_to(outputs)


@pytest.fixture
def evaluate(tmp_path):
    """Exit code and output."""
    cli = Cli(tmp_path)
    return lambda *arguments: cli.other("kdbench.cli.evaluate", *arguments)


def read_result(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_the_last_weights_give_the_numbers_of_the_record(evaluate, run):
    code, output = evaluate(run)
    assert code == 0, output
    record, found = read_record(run), read_result(run / "evaluation" / "last-fake-test")
    assert found["metrics"] == found["recorded"] == record.test
    assert f"top-1 {record.top1_last:.2f} %" in output
    assert "the metrics agree with the record" in output
    assert found["dataset"]["trained_on"] is False
    assert found["network"]["weights_digest"] == record.weights_digest
    assert found["teacher"]["weights_digest"] == record.teacher_digest
    assert found["teacher"]["top1"] == record.teacher_top1
    rows = list(csv.reader((run / "evaluation/last-fake-test/confusion.csv").open()))
    counts = [list(map(int, row[1:])) for row in rows[1:]]
    assert [row[0] for row in rows[1:]] == rows[0][1:] == [c["name"] for c in found["classes"]]
    assert sum(map(sum, counts)) == found["dataset"]["samples"] == 20
    right = sum(row[label] for label, row in enumerate(counts))
    assert 100 * right / 20 == record.top1_last
    assert [c["samples"] for c in found["classes"]] == [sum(row) for row in counts]


def test_another_epoch_and_other_splits(evaluate, run, tmp_path):
    assert evaluate(run, "--which", "best", "--out", tmp_path / "best")[0] == 0
    assert read_result(tmp_path / "best")["metrics"]["top1"] == read_record(run).top1_best
    half = ["dataset=fake", *DATA, "dataset.val_fraction=0.5"]
    for split, overrides, samples in (("train", [], 40), ("val", half, 20)):
        code, output = evaluate(run, "--split", split, *overrides)
        assert code == 0, output
        found = read_result(run / "evaluation" / f"last-fake-{split}")
        assert found["dataset"]["samples"] == samples
        assert found["dataset"]["trained_on"]  # nothing is held out under run.protocol=paper
        assert f"{samples} images that it was trained on" in output
        assert found["recorded"] is None
        assert "agreement" in found["metrics"]


def test_a_weight_file_and_a_teacher_to_compare_with(evaluate, run, tmp_path):
    (teacher,) = (tmp_path / "out" / "teachers" / "fake").iterdir()
    here = [f"paths.outputs={tmp_path}/out", "dataset=fake", *DATA, "run.threads=1"]
    code, output = evaluate(run / "student.safetensors", "--teacher", teacher, *here)
    assert code == 0, output
    assert (
        read_result(next((tmp_path / "out").glob("evaluations/*/*")))["metrics"]
        == read_record(run).test
    )
    code, output = evaluate(teacher / "student.safetensors", *here, "--out", tmp_path / "alone")
    assert code == 0, output
    found = read_result(tmp_path / "alone")
    assert found["metrics"]["top1"] == read_record(run).teacher_top1
    assert found["teacher"] is None
    assert "agreement" not in found["metrics"]


def test_a_teacher_that_is_gone_or_changed_is_reported(evaluate, run, tmp_path):
    (teacher,) = (tmp_path / "out" / "teachers" / "fake").iterdir()
    shutil.copy(run / "student.safetensors", teacher / "student.safetensors")
    here = f"paths.teachers={tmp_path}/out/teachers"
    code, output = evaluate(run, here)
    assert code == 0
    assert "not compared with its teacher" in output
    assert "does not have the weights of its run" in output
    (teacher / "student.safetensors").unlink()
    code, output = evaluate(run, here)
    assert code == 0
    assert "no such file" in output
    assert "agreement" not in read_result(run / "evaluation" / "last-fake-test")["metrics"]


def test_a_record_that_says_something_else_is_noticed(evaluate, run):
    record = read_record(run)
    replace(record, test={**record.test, "nll": 1.5}).write(run)
    code, output = evaluate(run)
    assert code == 0
    assert "but 1.5 in the record" in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["RUN/none"], 4, ["does not exist"]),
        (["RUN/checkpoint"], 4, ["has no record.json"]),
        (["RUN/student.safetensors"], 2, ["needs a dataset", "dataset=cifar100"]),
        (["RUN", "--arch", "resnet8"], 2, ["--arch: only for weight files"]),
        (["RUN/student.safetensors", "--which", "best"], 2, ["--which: only for folders"]),
        (["RUN", "run.epochs=5"], 2, ["run.epochs determined the result"]),
        (["RUN", "paths.dta=x"], 2, ["paths.dta is not a key", "paths.data"]),
        (["RUN", "dataset=fake", "dataset.num_classes=7"], 2, ["trained on 10 classes", "has 7"]),
        (["RUN", "dataset=fake", "--export", "safetensors"], 2, ["omit dataset="]),
        (["RUN", "dataset=fak"], 2, ["dataset=fak does not exist", "fake"]),
        (["RUN", "--teacher", "RUN/none"], 4, ["no such file"]),
        (["RUN/checkpoint/best.safetensors", "dataset=fake"], 2, ["--arch", "like resnet8"]),
        (["RUN", "--split", "val"], 3, ["the val split has no images"]),
        (["RUN", "--split", "other"], 2, ["invalid choice"]),
    ],
)
def test_mistakes_have_codes_and_messages_without_tracebacks(
    evaluate, trained, tmp_path, arguments, code, words
):
    found, output = evaluate(
        *(a.replace("RUN", str(trained)) for a in arguments), "--out", tmp_path
    )
    assert found == code, output
    for word in words:
        assert word in output
    assert "Traceback" not in output


def test_other_weights_than_those_of_the_run_are_refused(evaluate, run):
    shutil.copy(run / "checkpoint" / "best.safetensors", run / "student.safetensors")
    record = read_record(run)
    replace(record, weights_digest="0" * 64).write(run)
    code, output = evaluate(run)
    assert code == 4
    assert "does not have the weights of its run" in output


def test_export_as_safetensors(evaluate, run):
    from kdbench.digest import state_digest
    from kdbench.model.checkpoint import load_weights

    code, output = evaluate(run, "--export", "safetensors")
    assert code == 0, output
    folder, record = run / "evaluation" / "last-fake-test" / "export", read_record(run)
    weights = load_weights(folder / "model.safetensors")
    assert state_digest(weights.state) == record.weights_digest
    assert (weights.arch, weights.top1) == ("resnet8", record.top1_last)
    card = (folder / "README.md").read_text()
    for line in (
        "# resnet8 on fake",
        "| method | kd |",
        "| temperature | cosine |",
        f"| top1 | {record.top1_last} |",
        "    kdbench-train ",  # what trains this run, although it may be of a sweep
        "temperature=cosine",
        "| measured_on | test split, 20 images |",
        "The weights are those of the last epoch.",
        "load_model(arch='resnet8', num_classes=10, in_channels=3, image_size=8)",
    ):
        assert line in card
    code, output = evaluate(run, "--export", "safetensors", "--which", "best", "--out", run / "b")
    assert "best epoch, picked on the test set" in (run / "b/export/README.md").read_text()


def test_names_of_classes_stay_names(tmp_path):
    names = ("=1+1", 'a,"b"', "c")
    Evaluation(
        network={},
        teacher=None,
        teacher_missing=None,
        dataset={},
        metrics={},
        recorded=None,
        class_names=names,
        confusion=[[1, 2, 0], [0, 4, 1], [0, 0, 0]],
        circumstances={},
    ).write(tmp_path)
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows[0] == ["true \\ chosen", "'=1+1", 'a,"b"', "c"]
    assert rows[2] == ['a,"b"', "0", "4", "1"]
    top1 = [c["top1"] for c in read_result(tmp_path)["classes"]]
    assert top1 == [pytest.approx(100 / 3), 80.0, None]


@pytest.mark.parametrize("module", ["evaluate", "rerun"])
def test_help_comes_without_torch(module):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['x', '--help']\nfrom kdbench.cli.{module} import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
    assert f"kdbench-{module} " in done.stdout
