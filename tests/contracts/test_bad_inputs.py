"""All rows of ``bad_inputs.py``: in this process, and, slowly, each as a process of its own."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.helpers.bad_inputs import CASES, ROWS, WITHOUT_SUBJECT
from tests.helpers.commands import loggers_restored, run_here
from tests.helpers.mishaps import Place
from tests.helpers.paths import ROOT

# What a failed command may write or append to; everything else stays as it was.
OWN = {"train.log", "run.lock", "run.owner.json", "config.yaml", "hydra.yaml", "overrides.yaml"}


def name(case):
    earlier = [other for other in CASES if other.row == case.row]
    return f"row{case.row:02d}" + "abcdefgh"[earlier.index(case)] * (len(earlier) > 1)


def test_every_row_has_a_case_or_a_reason():
    rows = {case.row for case in CASES}
    assert rows | set(WITHOUT_SUBJECT) == set(range(1, ROWS + 1))
    assert not rows & set(WITHOUT_SUBJECT)


def run_in_process(case, place):
    return run_here(case.module, case.command(place), folder=place.folder, patch=case.patch)


def run_apart(case, place):
    command = [sys.executable, "-m", __name__, str(CASES.index(case)), *case.command(place)]
    done = subprocess.run(
        command,
        cwd=place.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def files(folder):
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in OWN]
    return {path: path.read_bytes() for path in found}


def carry_out(case, tmp_path, run):
    place = Place(tmp_path)
    if case.prepare is not None:
        with loggers_restored():
            case.prepare(place)
    before = files(tmp_path)
    for _ in range(2 if case.again else 1):
        code, said = run(case, place)
        assert code == case.code or (isinstance(case.code, tuple) and code in case.code), said
        missing = [word for word in case.words if word.lower() not in said.lower()]
        assert not missing, said
        assert "Traceback" not in said
        assert "bug in kdbench" not in said
        if code:  # nothing is lost
            after = files(tmp_path)
            assert {path: after.get(path) for path in before} == before
    if case.check is not None:
        case.check(place, said)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_in_this_process(case, tmp_path):
    carry_out(case, tmp_path, run_apart if case.apart else run_in_process)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name)
def test_as_a_process(case, tmp_path):
    carry_out(case, tmp_path, run_apart)


if __name__ == "__main__":
    chosen = CASES[int(sys.argv.pop(1))]
    sys.argv[0] = chosen.module
    command = importlib.import_module(chosen.module).main
    if chosen.patch is not None:
        chosen.patch(pytest.MonkeyPatch())
    command()
