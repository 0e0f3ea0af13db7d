"""A run records and logs whether it has a published setting."""

import logging

import pytest
import torch

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key, teacher_job
from kdbench.engine.job import Job
from kdbench.engine.run import train_jobs
from kdbench.records.record import read_record
from tests.helpers.harness import TINY


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_unpublished_setting_is_recorded_and_logged(tmp_path, one_thread, caplog):
    caplog.set_level(logging.INFO)
    cfg = compose_config([*TINY, "run.epochs=1", f"paths.outputs={tmp_path}"])
    train_jobs([Job(cfg, tmp_path / "run", run_key(cfg))])
    record = read_record(tmp_path / "run")
    assert record.setting == "default"
    assert record.setting_differs["run.epochs"] == [2, 1]
    assert "paths.outputs" not in record.setting_differs
    assert "no published setting for kd on fake, resnet8_resnet8" in caplog.text
    assert read_record(teacher_job(cfg)[1]).setting is None
