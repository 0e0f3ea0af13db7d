"""Hydra's own launchers under the same command: one job per process, the same exit codes."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kdbench.records.record import read_record
from tests.helpers.harness import TINY

COMMAND = Path(sys.executable).parent / "kdbench-train"


def launcher(name, plugin, *options):
    missing = pytest.mark.skipif(find_spec(plugin) is None, reason=f"{plugin} is not installed")
    marks = [missing, pytest.mark.slow]
    return pytest.param([f"hydra/launcher={name}", *options], id=name, marks=marks)


LAUNCHERS = [
    launcher("basic", "hydra"),
    launcher("joblib", "hydra_plugins.hydra_joblib_launcher", "hydra.launcher.n_jobs=2"),
    launcher(
        "submitit_local", "hydra_plugins.hydra_submitit_launcher", "hydra.launcher.timeout_min=5"
    ),
]


@pytest.mark.parametrize("arguments", LAUNCHERS)
def test_a_job_fails_and_the_others_finish(tmp_path, arguments):
    # The installed command: joblib keeps a process alive that multiprocessing has started.
    sweep = [COMMAND, "-m", *arguments, f"paths.outputs={tmp_path}", *TINY, "method=scratch"]
    done = subprocess.run([*sweep, "optim.lr=0.05,1e30"], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert "error: ce not finite at step" in done.stderr
    records = {read_record(p.parent).status: p for p in (tmp_path / "runs").rglob("record.json")}
    assert sorted(records) == ["done", "failed"]
    assert "Traceback" in (records["failed"].parent / "train.log").read_text()
    before = records["done"].read_bytes()
    done = subprocess.run([*sweep, "optim.lr=0.05"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert records["done"].read_bytes() == before


@pytest.mark.slow
def test_a_job_without_its_files_fails_alone(kdbench):
    weights = "teacher.weights=/no/file.pth,auto"
    code, said = kdbench("-m", "hydra/launcher=basic", weights)
    assert code == 9, said
    assert "teacher.weights='/no/file.pth' must be a file" in said
    assert [read_record(path.parent).status for path in kdbench.runs] == ["done"]


@pytest.mark.slow
def test_two_jobs_and_a_refused_one(kdbench):
    code, said = kdbench("-m", "hydra/launcher=basic", "temperature.tau=0,2,3")
    assert code == 9, said
    assert said.count("tau must be a finite number > 0") == 2  # when it happens, and at the end
    assert [read_record(path.parent).status for path in kdbench.runs] == ["done", "done"]
    code, said = kdbench("-m", "hydra/launcher=basic", "temperature.tau=2,3,4")
    assert code == 0, said
    assert said.count("already done") == 2
    assert len(kdbench.runs) == 3
