"""The cells of a table, and their forecast before anything is trained."""

import re
import shutil
import subprocess
import sys

import pytest

from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config
from kdbench.errors import ConfigError
from kdbench.planning.forecast import write_forecast
from kdbench.planning.plan import plan_table, planned_cells
from kdbench.planning.speed import Speed
from tests.helpers.harness import TINY

DEMO = ["method=scratch,kd", "temperature=constant,cosine", "seed=0,5"]


def fast(network):
    return Speed(macs=10**6, train=1e9, forward=1e9)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return plan_table("demo", [*DEMO, f"paths.outputs={tmp_path_factory.mktemp('plan')}"])


def test_cells_are_found_with_and_without_composing_each(plan):
    column = "mnist5k, resnet20_resnet8"
    found = planned_cells("demo", DEMO)  # seeds of the command line, not those of the table
    assert found == {(row, column): {0, 5} for row in ("scratch", "kd", "kd, cosine")}
    composed = {cell: {run.seed for run in runs} for cell, runs in plan.cells().items()}
    assert composed == found


def test_columns_are_chosen_by_dataset_pair_teacher_and_student():
    own = ["dataset=digits,mnist5k", "method=kd", "temperature=constant", "student=resnet14"]
    assert planned_cells("demo", own) == {
        ("kd", "digits, resnet20_resnet14"): set(range(6)),
        ("kd", "mnist5k, resnet20_resnet14"): set(range(6)),
    }


def test_a_planned_run_is_the_one_that_the_command_composes(plan):
    (run,) = (run for run in plan.runs if run.cell[0] == "kd, cosine" and run.seed == 5)
    outputs = run.config["paths"]["outputs"]
    own = ["method=kd", "temperature=cosine", "seed=5", f"paths.outputs={outputs}"]
    assert run.config == resolve_config(compose_config(["table=demo", *own]))
    assert run.config["run"]["data_seed"] == 5


def test_a_student_without_a_teacher_is_one_run_whatever_the_temperature(plan):
    assert (len(plan.runs), len(plan.distinct())) == (8, 6)
    assert "8 runs, of which 2 duplicates" in write_forecast(plan, fast)


@pytest.mark.slow
def test_a_plan_knows_what_a_sweep_has_trained(kdbench):
    own = [*TINY, "method=scratch", "temperature=constant"]
    code, output = kdbench("-m", "table=demo", *own, "seed=0,1")
    assert code == 0, output

    def states():
        found = plan_table("demo", [*own, "seed=0,1,2", f"paths.outputs={kdbench.folder}/out"])
        return [run.status for run in found.runs]

    assert states() == ["done", "done", "missing"]
    first, second = (path.parent for path in kdbench.runs)
    (first / "student.safetensors").unlink()
    (second / "record.json").unlink()
    assert states() == ["failed", "begun", "missing"]
    shutil.rmtree(first)
    assert states() == ["missing", "begun", "missing"]


def test_where_the_data_is_missing_cells_and_costs_are_reported_all_the_same(tmp_path):
    own = ["pair=resnet56_resnet20,resnet110_resnet20", "seed=0", f"paths.data={tmp_path}"]
    plan = plan_table("ctkd_cifar100", [*own, f"paths.outputs={tmp_path}"])
    assert {run.status for run in plan.runs} == {"unknown"}
    assert len(plan.distinct()) == 5  # the student alone is the same for both teachers
    text = write_forecast(plan, fast)
    assert text.count("cifar100 was not found") == 1
    assert "counted above" in text
    assert re.search(r"resnet110 \(cifar100, batches of 64\) +unknown", text)


def test_mistakes_are_reported_with_corrections():
    with pytest.raises(ConfigError, match="ttm_cifar10 does not exist; did you mean ttm_cifar100"):
        planned_cells("ttm_cifar10")


def test_a_plan_needs_no_torch():
    code = "import kdbench.planning.plan, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_that_puts_an_assistant_in_between_has_a_column_of_its_own(tmp_path):
    own = ["seed=0", f"paths.outputs={tmp_path}"]
    direct = "cifar100, resnet110_resnet8"
    chain = "cifar100, resnet110-kd-resnet20_resnet8"
    planned = planned_cells("takd_cifar100", own)
    assert planned == {("scratch", direct): {0}, ("kd", direct): {0}, ("takd", chain): {0}}
    assert set(plan_table("takd_cifar100", own).cells()) == set(planned)
