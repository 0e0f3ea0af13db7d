"""Code of a user's own, as the documentation shows it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.config.overrides import compose_checked
from kdbench.config.own import find_own_code, replace_strategy
from kdbench.errors import ConfigError
from kdbench.records.record import read_record
from tests.helpers.harness import TINY
from tests.helpers.paths import ROOT

ALLOWED = {"KDBENCH_ALLOW_TARGETS": "mine"}


def example():
    """The parts of the section: the strategy, its YAML, the commands."""
    page = (ROOT / "docs" / "own.md").read_text()
    section = page.split("## A strategy of your own")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    found = {kind: text for kind, text in blocks if kind != "bash"}
    commands = "".join(text for kind, text in blocks if kind == "bash").splitlines()
    assert commands[0] == "export KDBENCH_ALLOW_TARGETS=mine"
    return found["python"], found["yaml"], [shlex.split(line)[1:] for line in commands[1:]]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the section's files, in which this process is."""
    code, options, _ = example()
    folder = tmp_path / "mine"
    (folder / "conf" / "temperature").mkdir(parents=True)
    (folder / "mine.py").write_text(code)
    (folder / "conf" / "temperature" / "sure.yaml").write_text(options)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield folder
    sys.modules.pop("mine", None)


def test_the_commands_of_the_documentation_train(kdbench, mine):
    for arguments in example()[2]:
        code, output = kdbench(*arguments, "run.epochs=1", here=str(mine), environment=ALLOWED)
        assert code == 0, output
    records = [read_record(path.parent) for path in kdbench.runs]
    settings = [record.config["temperature"] for record in records]
    own = [s for s in settings if s["_target_"] == "mine.Sure"]
    assert {s["hot"] for s in own} == {6, 7, 8}
    assert all(s.keys() - {"name"} == {"_target_", "cool", "hot"} for s in own)
    assert {record.temperature for record in records} == {"mine", "sure", "constant"}


def test_without_permission_nothing_of_the_folder_is_imported(kdbench, mine):
    (mine / "mine.py").write_text("open('ran', 'w').close()\n")
    code, output = kdbench(*example()[2][0], here=str(mine))
    assert code == 2
    assert "KDBENCH_ALLOW_TARGETS" in output
    assert not (mine / "ran").exists()


def test_the_current_directory_comes_last_and_only_with_permission(mine, monkeypatch):
    monkeypatch.delenv("KDBENCH_ALLOW_TARGETS", raising=False)
    find_own_code()
    assert str(mine) not in sys.path
    monkeypatch.setenv("KDBENCH_ALLOW_TARGETS", "mine")
    find_own_code()
    find_own_code()
    assert sys.path[-1] == str(mine)
    assert sys.path.count(str(mine)) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["temperature.tau=2"], ["temperature.tau=2"]),
        (
            ["--cfg", "job", "-p", "temperature", "temperature._target_=a.B"],
            ["--cfg", "job", "-p", "temperature", "~temperature", "++temperature._target_=a.B"],
        ),
        (
            ["seed=1", "temperature._target_=a.B", "temperature.k=2"],
            ["seed=1", "~temperature", "++temperature._target_=a.B", "++temperature.k=2"],
        ),
        (
            ["+temperature.k=1,2", "temperature._target_=a.B"],
            ["~temperature", "++temperature.k=1,2", "++temperature._target_=a.B"],
        ),
        (
            ["~temperature.tau", "temperature._target_=a.B", "+temperature.k=1"],
            ["~temperature", "++temperature._target_=a.B", "++temperature.k=1"],
        ),
        (
            ["temperature=cosine", "temperature._target_=a.B"],
            ["temperature=cosine", "temperature._target_=a.B"],
        ),
        (
            ["~temperature", "+temperature._target_=a.B"],
            ["~temperature", "+temperature._target_=a.B"],
        ),
    ],
)
def test_what_replaces_the_strategy(overrides, expected):
    assert replace_strategy(overrides) == expected


def test_keys_of_the_default_strategy_do_not_stick(mine, monkeypatch):
    monkeypatch.setenv("KDBENCH_ALLOW_TARGETS", "mine")
    find_own_code()
    own = ["temperature._target_=mine.Sure", "temperature.cool=2", "temperature.hot=6"]
    for method in ("kd", "ctkd", "dkd"):
        cfg = compose_checked([f"method={method}", *own])
        assert dict(cfg.temperature) == {"_target_": "mine.Sure", "cool": 2, "hot": 6}
    with pytest.raises(ConfigError, match=r"temperature\.hot is missing"):
        compose_checked(own[:2])
    with pytest.raises(ConfigError, match=r"temperature\.tau is not an argument"):
        compose_checked([*own, "temperature.tau=4"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", ["cohort", "basic", "joblib", "submitit_local", "cohort_slurm"]
)
def test_every_launcher_finds_it(mine, tmp_path, launcher, monkeypatch):
    monkeypatch.setenv("KDBENCH_ALLOW_TARGETS", "mine")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    local = ["hydra.launcher.executor.cluster=local"] if launcher == "cohort_slurm" else []
    command = [
        str(Path(sys.executable).parent / "kdbench-train"),
        *("-m", f"hydra/launcher={launcher}", *local, *TINY, "run.epochs=1"),
        *("temperature._target_=mine.Sure", "temperature.cool=2", "temperature.hot=6,8"),
        f"paths.outputs={tmp_path}/out",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = list((tmp_path / "out" / "runs").rglob("record.json"))
    assert [read_record(path.parent).status for path in records] == ["done", "done"]
