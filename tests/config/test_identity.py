import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.config.compose import CONF, compose_config
from kdbench.config.identity import describe, run_key, strategy_name, teacher_config
from kdbench.errors import CheckpointError


@pytest.fixture
def key(tmp_path):
    def of(*overrides):
        return run_key(compose_config([f"paths.outputs={tmp_path}", "debug=smoke", *overrides]))

    return of


def test_the_same_run_has_the_same_key(key):
    assert key() == key()
    assert len(key()) == 64


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "run.epochs=9",
        "optim.lr=0.01",
        "temperature.tau=2",
        "student=resnet14",
        "run.precision=bf16",
        "run.protocol=strict",
        "dataset.augmentation.pad=2",
        "teacher.seed=5",
        "teacher=resnet14",
        "objective.ce_weight=0.5",
        "dataset.seed=3",
        "run.data_seed=4",
    ],
)
def test_what_changes_the_result_changes_the_key(key, override):
    assert key(override) != key()


@pytest.mark.parametrize(
    "override",
    [
        "tracker=wandb",
        "run.device=cpu",
        "run.threads=1",
        "run.checkpoint_minutes=3",
        "run.keep_checkpoints=5",
        "paths.data=/elsewhere",
        "hydra.run.dir=/x",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_key(key, override):
    assert key(override) == key()


def test_the_name_of_a_table_does_not_change_the_key(key):
    assert key("table=demo") == key("run.epochs=3", "teacher.epochs=5")


def test_a_run_has_the_name_of_its_table_and_its_teacher_has_not():
    cfg = compose_config(["table=demo"])
    assert describe(cfg, Path("run"), "0" * 64).table == "demo"
    assert describe(teacher_config(cfg), Path("run"), "0" * 64).table is None


def test_teachers_of_one_network_can_be_distinguished():
    def choices(*overrides):
        return describe(compose_config(overrides), Path("run"), "0" * 64).teacher_choices

    assert choices("teacher.seed=5")["seed"] == 5
    assert choices("teacher.weights=/a/teacher.pth") == {"weights": "/a/teacher.pth"}
    assert choices("method=scratch") == {}


def test_from_scratch_neither_teacher_nor_temperature_count(key):
    scratch = key("method=scratch")
    assert scratch == key("method=scratch", "temperature=cosine", "teacher=resnet14")
    assert strategy_name(compose_config(["method=scratch"])) == "none"
    assert strategy_name(compose_config(["temperature=cosine"])) == "cosine"


def test_a_teacher_file_counts_by_its_content(key, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    first.write_bytes(b"a"), second.write_bytes(b"a"), other.write_bytes(b"b")
    keys = [key(f"teacher.weights={path}") for path in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_teacher_file_that_is_none_is_refused(key, tmp_path):
    with pytest.raises(CheckpointError, match=r"teacher\.weights=.* must be a file"):
        key(f"teacher.weights={tmp_path}/missing")
    with pytest.raises(CheckpointError, match=r"teacher\.weights=.* found nothing"):
        key(f"teacher.weights={tmp_path}")


def test_a_file_to_start_from_counts_by_its_content(key, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    first.write_bytes(b"a"), second.write_bytes(b"a"), other.write_bytes(b"b")
    keys = [key(f"student.weights={path}") for path in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]
    assert key() not in keys
    first.write_bytes(b"changed")
    assert key(f"student.weights={first}") not in keys
    with pytest.raises(CheckpointError, match=r"student\.weights=.* must be a file"):
        key(f"student.weights={tmp_path}/none")


def test_ones_own_code_counts_by_its_source(key, tmp_path, monkeypatch):
    from kdbench.config import code

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ownmodule.py").write_text("class Strategy: tau = 1")
    override = "temperature._target_=ownmodule.Strategy"
    before = key(override)
    assert key(override) == before
    (tmp_path / "ownmodule.py").write_text("class Strategy: tau = 2")
    code._tree.cache_clear()
    assert key(override) != before
    scratch = key("method=scratch", override)
    assert scratch == key("method=scratch")  # it is not used there


def test_a_key_needs_no_torch(tmp_path):
    code = (
        "import sys; from kdbench.config.compose import compose_config;"
        "from kdbench.config.identity import run_key;"
        f"run_key(compose_config(['paths.outputs={tmp_path}']));"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_every_method_has_the_same_teacher(tmp_path):
    methods = sorted(
        path.stem
        for path in (CONF / "method").glob("*.yaml")
        if path.stem not in ("scratch", "takd")
    )
    overrides = [f"paths.outputs={tmp_path}", "debug=smoke"]
    keys = {
        run_key(teacher_config(compose_config([*overrides, f"method={method}", "seed=9"])))
        for method in methods
    }
    assert len(keys) == 1
