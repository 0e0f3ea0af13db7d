"""The command line, as a person uses it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench import __version__
from kdbench.records.record import read_record
from tests.helpers.commands import run_here
from tests.helpers.harness import TINY

LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, n in zip("abcdefghi", "bcdefghij", strict=True)
)
COMMAND = Path(sys.executable).parent / "kdbench-train"


def runs(tmp_path):
    return sorted((tmp_path / "out" / "runs").rglob("record.json"))


@pytest.mark.parametrize("question", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_questions_are_answered_without_torch(question):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['kdbench-train', *{question}]\n"
        "from kdbench.cli.train import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
    if question == ["--help"]:
        assert done.stdout.count("  kdbench-train ") >= 5
        assert max(map(len, done.stdout.splitlines())) <= 100
        for words in ("dataset: ", "pair: ", "student: ", "imagenet/resnet18", "kdbench-report"):
            assert words in done.stdout
        assert re.search(r"\n  ctkd +Learned against the student \(Li et al", done.stdout)
        assert "  kd              Classical distillation: Hinton" in done.stdout


def test_the_version_is_that_of_kdbench():
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kdbench {__version__}\n"


def test_the_installed_command_completes_words():
    done = subprocess.run(
        [COMMAND, "-sc", "query=bash"],
        env={**os.environ, "COMP_LINE": "kdbench-train temperature=co", "COMP_POINT": "28"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"temperature=constant", "temperature=cosine"} == set(done.stdout.split())


def test_a_run_and_the_same_run_again(kdbench, tmp_path):
    code, output = kdbench("temperature=cosine", "seed=3")
    assert code == 0, output
    (path,) = runs(tmp_path)
    folder = path.parent
    record = read_record(folder)
    expected = f"fake/resnet8_resnet8/kd-cosine/seed3-{record.run_key[:10]}"
    assert str(folder.relative_to(tmp_path / "out" / "runs")) == expected
    assert f"top-1 {record.top1_last:.2f} %" in output
    assert "epoch 3/3" in (folder / "train.log").read_text()
    assert {p.name for p in (folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }
    assert (record.temperature, record.seed, record.status) == ("cosine", 3, "done")
    assert record.command[1:3] == [f"paths.outputs={tmp_path}/out", "debug=smoke"]
    before = path.read_bytes()
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code, output = kdbench("temperature=cosine", "seed=3")
    assert code == 0
    assert "already done" in output
    assert path.read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == files  # it may be read-only


def test_why_a_run_failed_is_in_its_log_and_its_record(kdbench, tmp_path):
    code, output = kdbench("method=kd", "teacher.expected_top1=99", "teacher.tolerance=0")
    assert code == 4, output
    (path,) = runs(tmp_path)
    record = read_record(path.parent)
    assert (record.status, record.epochs_done, record.teacher) == ("failed", 0, "resnet8")
    assert "expected 99.00 %" in record.reason
    text = (path.parent / "train.log").read_text()
    assert text.count("failed: the teacher from") == 1
    assert text.count("Traceback") == 1
    assert kdbench("method=kd", "teacher.expected_top1=1")[0] == 0  # the same run: another bound


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tempreature=3"], 2, ["tempreature", "did you mean temperature"]),
        (["temperature.tau=0"], 2, ["tau must be a finite number > 0"]),
        (["-m", "seed=0,1", "temprature.tau=1"], 2, ["temprature.tau is not", "temperature.tau"]),
        (["dataset=cifar100", "paths.data=/nowhere"], 3, ["cifar100 was not found", "/nowhere"]),
        (["-m", "dataset=cifar100", "paths.data=/nowhere"], 9, ["cifar100 was not found"]),
        (["-m", "seed=0,x"], 2, ["'x'", "seed"]),
        (["--temperature=cosine"], 2, ["write temperature=cosine"]),
        (
            ["-m", "seed=range(20)", "hydra.launcher.max_lerners=1"],
            2,
            ["max_lerners is not a key", "max_learners"],
        ),
        (["paths.outputs="], 2, ["paths.outputs=''", "is a shell variable unset"]),
        (["paths.cache=${oc.env:NO_SUCH_VARIABLE}"], 2, ["NO_SUCH_VARIABLE is not set"]),
        (["-m", "paths.cache=${oc.env:NO_SUCH_VARIABLE}"], 2, ["NO_SUCH_VARIABLE is not set"]),
        (["objective=annealing"], 2, ["objective=annealing does not go with"]),
        (["optim.lr=???"], 2, ["optim.lr has no value"]),
        (["~tracker"], 2, ["tracker has no value"]),
        (["-m", "--cfg", "job"], 2, ["are for a single run"]),
        (["-m", "seed=range(1,1000000000)"], 2, ["999,999,999 points", "max_points=999999999"]),
        (["-m", "hydra.launcher.max_learners=0"], 2, ["max_learners=0", ">= 1"]),
        (["teacher.weights=/no/file.pth"], 4, ["teacher.weights='/no/file.pth'", "auto"]),
        (["method=scratch", "optim.lr=1e30"], 5, ["ce not finite at step", "optim.lr"]),
        (
            ["method=scratch", "hydra.run.dir=/dev/null/x"],
            6,
            ["/dev/null is a file"],
        ),
        (["method=scratch", "paths.cache=/dev/null/x"], 6, ["/dev/null/x", "Not a directory"]),
    ],
)
def test_mistakes_have_codes_and_messages_without_tracebacks(
    kdbench, tmp_path, arguments, code, words
):
    found, output = kdbench(*arguments)
    assert found == code, output
    for word in words:
        assert word in output
    assert "Traceback" not in output
    assert "Error executing job" not in output
    if code == 2:
        assert not runs(tmp_path)
        assert not list((tmp_path / "out").rglob(".hydra"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"tau: [1\nx: 2\n", ", line 2, column 2"),
        (b"\ttau: 1\n", ", line 1, column 1"),
        (b"tau: 1\ntau: 2\n", ", line 2, column 1: duplicate key tau"),
        (b"tau: caf\xe9\n", ", line 1, column 9: byte 0xe9 is not UTF-8"),
        (b"tau: &a [*a]\n", "contains itself"),
        (LAUGHS.encode(), "more than 100000 values"),
    ],
)
def test_a_file_of_ones_own_that_is_broken(kdbench, tmp_path, content, words):
    (tmp_path / "mine" / "temperature").mkdir(parents=True)
    file = tmp_path / "mine" / "temperature" / "own.yaml"
    file.write_bytes(content)
    code, output = kdbench("--config-dir", str(tmp_path / "mine"), "temperature=own")
    assert code == 2, output
    assert str(file) in output
    assert words in output
    assert "Traceback" not in output
    assert "bug" not in output


def test_the_folder_may_be_chosen_and_is_not_shared(kdbench, tmp_path):
    mine = f"hydra.run.dir={tmp_path}/mine"
    assert kdbench("method=scratch", mine)[0] == 0
    assert read_record(tmp_path / "mine").status == "done"
    code, output = kdbench("method=scratch", "seed=4", mine)
    assert code == 2
    assert "holds another run" in output
    assert "seed: 0 there, 4 here" in output


def test_a_full_disk_is_noticed_before_training(kdbench, tmp_path):
    code, output = kdbench("method=scratch", "run.keep_checkpoints=1000000000")
    assert code == 6
    assert "bytes free, but the checkpoints of scratch-none-seed0" in output
    assert not list((tmp_path / "out" / "runs").rglob("metrics.csv"))


def test_secrets_are_written_nowhere(tmp_path):
    canary = "canary-0123456789abcdef0123456789abcdef"
    arguments = [*TINY, "method=scratch", "tracker=wandb", f"tracker.tags=[{canary}]"]
    code = f"from tests.helpers.commands import command; command({str(tmp_path)!r}, {arguments!r})"
    environment = {**os.environ, "HF_TOKEN": canary, "WANDB_MODE": "offline"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    (path,) = runs(tmp_path)
    json.loads(path.read_text())
    written = [p for p in path.parent.rglob("*") if p.is_file() and ".hydra" not in p.parts]
    assert [p for p in written if canary.encode() in p.read_bytes()] == []


def test_a_run_is_composed_checked_and_built_once(tmp_path, monkeypatch):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from kdbench.model import load

    arguments = [f"paths.outputs={tmp_path}/out", *TINY, "run.epochs=1", "method=scratch"]
    composed, built = [], []
    compose, make = ConfigLoaderImpl._load_configuration_impl, load.load_model

    def compose_and_count(loader, **named):
        composed.append(list(named["overrides"]))
        return compose(loader, **named)

    def make_and_count(*args, **named):
        built.append(make(*args, **named))
        return built[-1]

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", compose_and_count)
    monkeypatch.setattr(load, "load_model", make_and_count)
    code, output = run_here("kdbench.cli.train", arguments)
    assert code == 0, output
    assert composed.count(arguments) == 1
    assert all("paths.outputs" not in str(other) for other in composed if other != arguments)
    devices = [next(network.parameters()).device.type for network in built]
    assert devices == ["meta", "cpu"]  # checked, then trained
