"""Event files as TensorBoard itself reads them."""

import logging
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key
from kdbench.errors import ConfigError
from kdbench.records.record import read_record
from kdbench.records.rows import read_metrics
from kdbench.tracker.tensorboard import FOLDER, TensorboardTracker
from tests.helpers.harness import TINY, run
from tests.helpers.paths import ROOT
from tests.helpers.wandb_child import make_config, make_identity, make_point, make_row

FOLLOWED = [*TINY, "tracker=tensorboard", "tracker.every_steps=2"]


_CIRCUMSTANCES = ("perf/", "seconds", "images_per_s", "peak_memory")


def read(folder):
    found = EventAccumulator(str(folder / FOLDER))
    found.Reload()
    return found


def curves(folder):
    """Name -> (step, value), of all scalars but those of time and memory."""
    found = read(folder)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if not any(word in tag for word in _CIRCUMSTANCES)
    }


def hparams(folder):
    """Config and status of a run, as the HParams tab has them."""
    metadata = read(folder).summary_metadata
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in started.hparams.items()}


def make_tracker(every_steps=2):
    return TensorboardTracker(every_steps)


def test_the_option_has_the_arguments_of_its_class():
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "tracker" / "tensorboard.yaml"))
    assert node == {
        "_target_": "kdbench.tracker.tensorboard.TensorboardTracker",
        "every_steps": 50,
    }
    with pytest.raises(ConfigError, match="every_steps=-1"):
        TensorboardTracker(-1)


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb_tensorboard", "wandb"])
def test_the_tracker_is_not_in_the_run_key(tracker):
    key = run_key(compose_config([*TINY, "method=scratch"]))
    assert run_key(compose_config([*TINY, "method=scratch", f"tracker={tracker}"])) == key


def test_rows_and_points_have_names_and_steps_of_the_run(tmp_path):
    tracker = make_tracker()
    tracker.start(make_identity(tmp_path), make_config(), None)
    tracker.log_point(make_point(5))
    for epoch in range(3):
        tracker.log(make_row(epoch, 1.0 / (epoch + 1)))
    tracker.finish("done", {"top1_last": 52.0, "test/nll": 1.5})
    found = curves(tmp_path)
    assert found["train/loss"] == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
    assert found["test/top1_best"] == [(10, 50.0), (20, 51.0), (30, 52.0)]
    assert found["epoch"] == [(10, 0.0), (20, 1.0), (30, 2.0)]
    assert {"batch/loss"} <= {name for name, points in found.items() if points[0][0] == 5}
    assert found["top1_last"] == [(30, 52.0)]
    assert found["test/nll"] == [(30, 1.5)]  # no curve has it, and the HParams tab asks for it


def test_runs_are_compared_by_config_and_numbers(tmp_path):
    config = make_config(optim={"lr": 0.05}, temperature={"tau": 4.0}, password="hunter2")
    tracker = make_tracker()
    tracker.start(make_identity(tmp_path, seed=3), config, None)
    tracker.log(make_row(0, 1.0))
    tracker.finish("done", {"top1_last": 52.0})
    tracker.finish("failed", {})  # a second call does nothing
    found = hparams(tmp_path)
    assert (found["seed"], found["optim_lr"], found["temperature_tau"]) == (3.0, 0.05, 4.0)
    assert (found["method"], found["table"]) == ("kd", "none")
    assert "hunter2" not in str(found)


def test_a_failed_run_is_not_compared(tmp_path):
    tracker = make_tracker()
    tracker.start(make_identity(tmp_path), make_config(), None)
    tracker.log(make_row(0, 1.0))
    tracker.finish("failed", {})
    assert "_hparams_/session_start_info" not in read(tmp_path).summary_metadata


def test_what_was_written_after_the_checkpoint_is_hidden(tmp_path):
    lost, kept = make_tracker(), make_tracker()
    lost.start(make_identity(tmp_path), make_config(), None)
    lost.log(make_row(0, 1.0))
    lost.log_point(make_point(12))
    state = lost.state_dict()
    lost.log_point(make_point(14))
    lost.log(make_row(1, 99.0))  # and killed
    kept.start(make_identity(tmp_path), make_config(), state)
    kept.log(make_row(0, 1.0))  # a run that continues says all its rows again
    kept.log(make_row(1, 0.5))
    kept.finish("preempted", {})
    found = curves(tmp_path)
    assert found["train/loss"] == [(10, 1.0), (20, 0.5)]
    assert [step for step, _ in found["batch/loss"]] == [12]


def test_without_a_state_of_its_own_the_whole_curve_is_written(tmp_path):
    first, second = make_tracker(), make_tracker()
    first.start(make_identity(tmp_path), make_config(), None)
    first.log(make_row(0, 99.0))
    second.start(make_identity(tmp_path), make_config(), {"run_id": "of W&B"})
    second.log(make_row(0, 1.0))
    second.finish("preempted", {})
    assert curves(tmp_path)["train/loss"] == [(10, 1.0)]


@pytest.mark.parametrize(
    "point",
    ["epoch:measured:3", pytest.param("epoch:committed:3", marks=pytest.mark.slow), "step:11"],
)
def test_a_killed_run_has_the_curves_of_one_that_was_not(tmp_path, uninterrupted, point):
    assert run(tmp_path, FOLLOWED, KDBENCH_KILL_AT=point) == -signal.SIGKILL
    assert run(tmp_path, FOLLOWED) == 0
    assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 2
    assert curves(tmp_path / "run") == curves(uninterrupted)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("uninterrupted")
    assert run(outputs, FOLLOWED) == 0
    return outputs / "run"


def test_a_run_has_its_metrics_and_its_record_there(uninterrupted):
    found, rows = curves(uninterrupted), read_metrics(uninterrupted / "metrics.csv")
    for name in rows[0].keys() - {"step"}:
        measured = [(int(row["step"]), pytest.approx(row[name])) for row in rows]
        assert found[name] == measured, name
    assert [step for step, _ in found["batch/loss"]] == [2, 4, 6, 8, 10, 12, 14]
    record = read_record(uninterrupted)
    assert found["top1_last"] == [(15, pytest.approx(record.top1_last))]
    assert found.keys() >= {
        name for name in record.numbers() if not any(word in name for word in _CIRCUMSTANCES)
    }
    assert hparams(uninterrupted)["run_key"] == record.run_key


def test_a_failure_is_reported_once_and_costs_nothing(tmp_path, caplog):
    tracker = make_tracker()
    tracker.start(make_identity(tmp_path), make_config(), None)

    def fail(*arguments):
        raise OSError("no space left on device")

    tracker._writer.add_scalar = fail
    with caplog.at_level(logging.WARNING):
        tracker.log_point(make_point(5))
        tracker.log(make_row(0, 1.0))
        tracker.finish("done", {"top1_last": 1.0})
    assert caplog.text.count("TensorBoard is off for this run (no space left on device)") == 1
    assert tracker.state_dict()["tensorboard"]["step"] == -1


def test_a_folder_that_cannot_be_used_is_a_warning(tmp_path, caplog):
    (tmp_path / FOLDER).symlink_to("/nowhere")
    tracker = make_tracker()
    tracker.start(make_identity(tmp_path), make_config(), None)
    tracker.log(make_row(0, 1.0))
    assert "TensorBoard is off" in caplog.text


def test_a_missing_package_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"kdbench\[tensorboard\]"):
        make_tracker().start(make_identity(tmp_path), make_config(), None)


def test_importing_it_needs_neither_tensorboard_nor_torch():
    check = (
        "import sys, kdbench.tracker.tensorboard, kdbench.tracker.several; "
        "sys.exit('torch' in sys.modules or 'tensorboard' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
