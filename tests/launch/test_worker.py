import sys

import pytest

from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config, run_key
from kdbench.errors import LoaderError
from kdbench.launch import worker
from kdbench.launch.group import Member, write_request
from tests.helpers.harness import TINY

DIED = "DataLoader worker (pid 7) is killed by signal: Killed. "


def _die(*_):
    raise RuntimeError(DIED)


def test_runs_whose_data_loader_was_killed_are_left_for_a_retry(tmp_path, monkeypatch):
    """A process that ends without outcomes is retried: see test_scheduler."""
    plain = resolve_config(compose_config([*TINY, "method=scratch", f"paths.outputs={tmp_path}"]))
    member = Member("run", run_key(plain), str(tmp_path / "run"), plain)
    write_request(tmp_path / "worker000.json", [member], 1.0)
    monkeypatch.setattr("kdbench.engine.run.train_jobs", _die)
    with pytest.raises(LoaderError, match=r"pid 7\) is killed by signal: Killed.*dataset\.workers"):
        worker.work(tmp_path / "worker000.json", [member], share=1.0)
    assert not (tmp_path / "worker000.jsonl").exists()
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_killed_data_loader_is_reported_with_exit_code_6(tmp_path, monkeypatch, caplog):
    write_request(tmp_path / "worker000.json", [], 1.0)
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "worker000.json")])
    monkeypatch.setattr(worker, "_exit_with_parent", lambda: None)

    def die(*_):
        raise LoaderError("pid 7 was killed")

    monkeypatch.setattr(worker, "work", die)
    with caplog.at_level("ERROR", "kdbench"), pytest.raises(SystemExit) as ended:
        worker.main()
    assert ended.value.code == 6
    assert "pid 7 was killed" in caplog.text
