import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.errors import ConfigError
from tests.helpers.paths import ROOT
from tests.helpers.waiting import next_second
from tests.helpers.wandb_child import (
    follow,
    make_config,
    make_identity,
    make_point,
    make_row,
    make_tracker,
)
from tests.helpers.wandb_server import WELL_FORMED_KEY

CHILD = "tests.helpers.wandb_child"
pytestmark = pytest.mark.usefixtures("wandb_nobody")


@pytest.fixture(scope="module", autouse=True)
def service():
    yield
    import wandb

    wandb.teardown()


def run_child(**task):
    process = subprocess.run(
        [sys.executable, "-m", CHILD, json.dumps(task)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1]), process.stderr


def inspect(run_folder, number=0):
    """Records of an offline run, as W&B's own tool reads them."""
    found = sorted((run_folder / "wandb").glob("offline-run-*"))[number]
    command = [
        str(Path(sys.executable).with_name("wandb")),
        "leet",
        "inspect",
        str(found),
        "--json",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def pick(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def curve(records, key="train/loss"):
    rows = [item["item"] for item in pick(records, "history")]
    return [(row["epoch"], row[key]) for row in rows if key in row]


def read_tables(run_folder):
    """Name -> content of the tables of an offline run."""
    folder = next((run_folder / "wandb").glob("offline-run-*")) / "files" / "media" / "table"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*.table.json")}
    return {name.rsplit("_", 2)[0]: json.loads(path.read_text()) for name, path in found.items()}


def marks(run_folder, number):
    attempts = sorted((run_folder / "wandb").glob("offline-run-*"))
    return list(attempts[number].glob("*.synced"))


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_an_offline_run_reads_back_with_curves_axis_and_config(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tracker = make_tracker(mode="offline", tags=["a paper", "y" * 200])
    tracker.start(make_identity(tmp_path, seed=3), make_config(optim={"lr": 0.05}), None)
    for epoch in range(3):
        tracker.log(make_row(epoch, 1.0 / (epoch + 1)))
    tracker.finish("done", {"top1_last": 52.0})

    records = inspect(tmp_path)
    run = pick(records, "run")[0]
    assert (run["project"], run["job_type"]) == ("kdbench", "train")
    assert run["run_group"] == "mnist5k/resnet20_resnet8/kd"
    assert run["display_name"] == "kd-constant-seed3"
    assert run["run_id"] == tracker.state_dict()["run_id"]
    assert "a-paper" in run["tags"]
    assert all(len(tag) <= 64 for tag in run["tags"])
    config = run["config"]["update"]
    assert config["conf"] == make_config(optim={"lr": 0.05})
    assert (config["teacher"], config["student"], config["seed"]) == ("resnet20", "resnet8", 3)
    assert (config["epochs"], config["run_key"]) == (3, "ab" * 32)
    assert curve(records) == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert curve(records, "step") == [(0, 10), (1, 20), (2, 30)]
    axes = {
        m.get("name", m.get("glob_name")): m.get("step_metric") for m in pick(records, "metric")
    }
    epochs = dict.fromkeys(("train", "val", "test", "temperature", "optim", "perf"), "epoch")
    assert axes == {"epoch": None, "step": None, "batch/*": "step"} | {
        f"{kind}/*": axis for kind, axis in epochs.items()
    }
    summary = {k: v for s in pick(records, "summary") for k, v in s["update"].items()}
    tables = read_tables(tmp_path)
    assert tables["table/result"]["data"] == [["top1_last", 52.0]]
    assert summary["table/result._type"] == "table-file"
    assert len(pick(records, "artifact")) == len(tables) == 3  # and of two charts
    assert {line[1] for line in tables["figures/temperature_table"]["data"]} == {
        *("teacher mean", "teacher p5", "teacher p95")
    }
    best = [item["item"]["test/top1_best"] for item in pick(records, "history")[:3]]
    assert best == [50, 51, 52]
    assert (summary["top1_last"], summary["status"]) == (52.0, "done")
    assert f"wandb sync {tmp_path / 'wandb' / 'offline-run-'}" in caplog.text
    assert not warnings(caplog)


def test_commit_machine_and_console_are_there_and_no_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x/kdbench-train", "hub.password=hush"])
    monkeypatch.setenv("HF_TOKEN", "canary-hf-0123456789")
    log = logging.getLogger("kdbench")
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    monkeypatch.setattr(log, "level", logging.INFO)
    tracker = make_tracker(mode="offline")
    tracker.start(make_identity(tmp_path), make_config(), None)
    label = make_identity(tmp_path).label
    log.info("of this run, canary-hf-0123456789", extra={"run": label})
    log.info("of everybody, hub.api_key=hush tau=4")
    log.info("of another run", extra={"run": "other"})
    tracker.finish("done", {})
    log.info("too late")
    records = inspect(tmp_path)
    assert sys.argv[1:] == ["hub.password=hush"]
    lines = [line["line"].split("kdbench: ")[1].strip() for line in pick(records, "output_logger")]
    assert lines == ["of this run, <removed>", "of everybody, hub.api_key=<removed> tau=4"]
    (machine,) = [record for record in pick(records, "environment") if "os" in record]
    assert machine["program"] == "kdbench-train"
    assert not machine.get("args")
    assert "hush" not in json.dumps(records)
    run = pick(records, "run")[0]
    commit = run["config"]["update"]["commit"]
    assert run["git"] == {"commit": commit}
    assert len(commit) == 40
    assert {"python", "versions", "platform"} <= run["config"]["update"]["environment"].keys()
    import wandb

    assert tracker._settings(wandb).x_disable_stats is False


def test_each_of_them_can_be_switched_off(tmp_path, caplog):
    import wandb

    caplog.set_level(logging.INFO)
    off = dict.fromkeys(("commit", "machine", "console", "usage"), False)
    tracker = make_tracker(mode="offline", **off)
    tracker.start(make_identity(tmp_path), make_config(), None)
    logging.getLogger("kdbench").info("a line")
    tracker.finish("done", {})
    records = inspect(tmp_path)
    assert not pick(records, "output_logger") + pick(records, "environment")
    run = pick(records, "run")[0]
    assert "git" not in run
    assert not {"commit", "environment"} & run["config"]["update"].keys()
    assert tracker._settings(wandb).x_disable_stats is True


def points(records):
    rows = [item["item"] for item in pick(records, "history")]
    return [(row["step"], row["batch/loss"]) for row in rows if "batch/loss" in row]


def test_points_within_epochs_survive_a_restart_once(tmp_path):
    first = make_tracker(mode="offline")
    first.start(make_identity(tmp_path / "a"), make_config(), None)
    for step in (5, 10):
        first.log_point(make_point(step))
    first.log(make_row(0, 1.0))  # after step 10, too
    first.log_point(make_point(15))
    state = json.loads(json.dumps(first.state_dict()))
    first.finish("preempted", {})
    again = make_tracker(mode="offline")
    again.start(make_identity(tmp_path / "b"), make_config(), state)
    again.log(make_row(0, 1.0))
    for step in (15, 20):  # a step before the checkpoint is not repeated, one after it is
        again.log_point(make_point(step))
    again.log(make_row(1, 0.5))
    again.finish("done", {})
    records = inspect(tmp_path / "b")
    assert points(records) == [(step, 1.0 / step) for step in (5, 10, 15, 20)]
    assert [loss for _, loss in curve(records)] == [1.0, 0.5]
    rows = [item["item"] for item in pick(records, "history")]
    assert [row.get("step") for row in rows[:4]] == [5, 10, 15, 20]
    both = {f"batch/temperature_{who}_mean" for who in ("teacher", "student")}
    assert both <= rows[0].keys()


def test_runs_that_are_open_at_once_keep_their_rows_apart(tmp_path):
    trackers = [make_tracker(mode="offline") for _ in range(2)]
    for number, tracker in enumerate(trackers):
        tracker.start(make_identity(tmp_path / str(number), seed=number), make_config(), None)
    for epoch in range(3):
        for number, tracker in enumerate(trackers):
            tracker.log(make_row(epoch, 100.0 * number + epoch))
    trackers[0].finish("failed", {})
    trackers[1].log(make_row(3, 103.0))
    trackers[1].finish("preempted", {})
    follow(tmp_path / "later", mode="offline")

    first, second = inspect(tmp_path / "0"), inspect(tmp_path / "1")
    assert curve(first) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert curve(second) == [(0, 100.0), (1, 101.0), (2, 102.0), (3, 103.0)]
    assert curve(inspect(tmp_path / "later")) == [(0, 1.0), (1, 0.5)]
    assert pick(first, "exit")[0]["exit_code"] == 1
    assert pick(second, "exit")[0].get("exit_code", 0) == 0


def test_a_variable_cannot_merge_two_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "same")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    ids = {follow(tmp_path / name, mode="offline").state_dict()["run_id"] for name in "ab"}
    assert len(ids) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_key_the_run_is_offline_at_once_and_nothing_else_changes(
    tmp_path, caplog, monkeypatch
):
    import wandb

    caplog.set_level(logging.INFO)
    before, modes, init = dict(os.environ), [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **o: modes.append(o["mode"]) or init(**o))
    follow(tmp_path)
    assert modes == ["offline"]  # no server was contacted first
    assert dict(os.environ) == before
    assert "no API key" in caplog.text
    assert not warnings(caplog)
    assert curve(inspect(tmp_path)) == [(0, 1.0), (1, 0.5)]


def test_online_without_a_key_is_a_warning(tmp_path, caplog):
    follow(tmp_path, mode="online")
    assert len(warnings(caplog)) == 1
    assert "no API key" in caplog.text
    assert curve(inspect(tmp_path)) == [(0, 1.0), (1, 0.5)]


def test_a_server_that_does_not_answer_is_tried_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    child, log = run_child(folders=folders, overrides={"init_timeout": 3})
    assert (child["logins"], child["modes"]) == (1, ["offline", "offline"])
    assert make_tracker().init_timeout * 2 < 15  # seconds: for the account and for the run
    assert child["same_environment"]
    assert log.count("WARNING W&B is offline") == 2
    assert "wandb sync" in log
    assert WELL_FORMED_KEY not in log
    assert [len(curve(inspect(tmp_path / name))) for name in "ab"] == [3, 3]
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_lost_after_the_login_leaves_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    child, log = run_child(
        folders=[str(tmp_path / "a")], patch=True, overrides={"mode": "online", "init_timeout": 1}
    )
    run_id = child["states"][0]["run_id"]
    assert f"wandb sync --id={run_id} " in log
    assert len(curve(inspect(tmp_path / "a"))) == 3


def test_online_runs_send_their_rows_and_names(tmp_path, wandb_server):
    child, log = run_child(folders=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert "WARNING W&B" not in log
    assert len(wandb_server.tables) == 2 * 3  # result, accuracy, temperature
    ids = [state["run_id"] for state in child["states"]]
    assert list(wandb_server.runs) == ids
    for run_id in ids:
        assert wandb_server.curve(run_id) == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
        run = wandb_server.runs[run_id]
        assert run["groupName"] == "mnist5k/resnet20_resnet8/kd"
        assert json.loads(run["config"])["temperature"]["value"] == "constant"
    assert list((tmp_path / "home").iterdir()) == []


def test_an_online_run_goes_on_where_the_server_is(tmp_path, wandb_server):
    child, _ = run_child(folders=[str(tmp_path)])
    (state,) = child["states"]
    lines = wandb_server.lines[state["run_id"]]
    lines.pop()  # the last row, of the figures
    run_child(folders=[str(tmp_path)], states=[state], epochs=5)
    assert wandb_server.curve(state["run_id"]) == [
        (k, pytest.approx(1 / (k + 1))) for k in range(5)
    ]
    steps = [row["step"] for row in map(json.loads, lines) if "batch/loss" in row]
    assert steps == list(range(5, 51, 5))


def test_an_offline_run_that_goes_on_online_is_complete_there(tmp_path, wandb_server):
    state = follow(tmp_path, losses=(1.0, 0.5), status="preempted", mode="offline").state_dict()
    run_child(folders=[str(tmp_path)], states=[state])
    curve = wandb_server.curve(state["run_id"])
    assert curve == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert len(marks(tmp_path, 0)) == 1  # uploading it would put two rows in the place of three


@pytest.mark.slow
def test_a_server_that_is_lost_in_the_middle_is_waited_for_once(tmp_path, wandb_server):
    folders = [str(tmp_path / name) for name in "abcd"]
    child, log = run_child(folders=folders, overrides={"finish_timeout": 1.0}, lose=True)
    assert child["closed_here"] == 1  # the others wait together, while the process ends
    assert log.count("WARNING W&B finish failed") == 4
    assert log.count("wandb sync") >= 4


def test_a_malformed_key_is_a_warning_that_does_not_show_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-malformed")
    child, log = run_child(folders=[str(tmp_path / "a")])
    assert child["modes"] == ["offline"]  # and no server was contacted
    assert log.count("WARNING") == 1
    assert "invalid" in log
    assert "canary" not in log


def test_offline_contacts_no_server(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: pytest.fail("login was called"))
    monkeypatch.setenv("WANDB_API_KEY", "malformed")
    follow(tmp_path / "a", mode="offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(tmp_path / "b", mode="auto")
    assert len(curve(inspect(tmp_path / "b"))) == 2


def test_no_secret_is_in_any_byte(tmp_path, monkeypatch):
    canaries = {
        "WANDB_API_KEY": "canary-wandb-0123456789",
        "HF_TOKEN": "canary-hf-0123456789",
        "AWS_SECRET_ACCESS_KEY": "canary-aws-0123456789",
        "WANDB_MODE": "offline",
    }
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    config = {
        "dataset": {"url": "https://canary-hf-0123456789@host/file"},
        "list": ["canary-aws-0123456789"],
        "hub": {"api_key": "canary-plain-0123456789"},
    }
    _, log = run_child(folders=[str(tmp_path / "run")], config=config)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if b"canary" in path.read_bytes()]
    said = "the key is canary-hf-0123456789"  # by the process itself; W&B has it without
    assert "canary" not in log.replace(said, "")
    lines = [record["line"] for record in pick(inspect(tmp_path / "run"), "output_logger")]
    assert len([line for line in lines if "the key is <removed>" in line]) == 3
    conf = pick(inspect(tmp_path / "run"), "run")[0]["config"]["update"]["conf"]
    assert conf["dataset"] == {"url": "https://<removed>@host/file"}
    assert list((tmp_path / "home").iterdir()) == []


def test_failures_in_the_middle_are_one_warning(tmp_path, monkeypatch, caplog):
    import wandb

    def fail(*_, **__):
        raise OSError("socket is gone")

    tracker = make_tracker(mode="offline")
    tracker.start(make_identity(tmp_path), make_config(), None)
    tracker.log(make_row(0, 1.0))
    monkeypatch.setattr(wandb.Run, "log", fail)
    for epoch in range(1, 4):
        tracker.log(make_row(epoch, 1.0))
    monkeypatch.undo()
    tracker.finish("done", {})
    assert len(warnings(caplog)) == 1
    assert "socket is gone" in caplog.text
    assert "wandb sync" in caplog.text
    assert curve(inspect(tmp_path)) == [(0, 1.0)]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the service in /proc")
def test_a_killed_service_is_one_warning_and_exit_code_0(tmp_path):
    child, log = run_child(folders=[str(tmp_path / "a")], kill=True)
    assert log.count("WARNING") == 1
    assert child["states"][0]["run_id"]


def test_training_goes_on_where_not_even_offline_works(tmp_path, monkeypatch, caplog):
    import wandb

    def fail(**_):
        raise OSError("disk is full")

    monkeypatch.setattr(wandb, "init", fail)
    follow(tmp_path)
    assert len(warnings(caplog)) == 1
    assert "W&B is off" in caplog.text


def test_finish_and_log_after_finish_do_nothing(tmp_path, caplog):
    tracker = follow(tmp_path, mode="offline")
    tracker.finish("failed", {})
    tracker.log(make_row(7, 1.0))
    assert not warnings(caplog)
    records = inspect(tmp_path)
    assert [e.get("exit_code", 0) for e in pick(records, "exit")] == [0]


def test_a_resumed_run_continues_its_curve(tmp_path):
    state = follow(tmp_path, losses=(1.0, 0.5), status="preempted", mode="offline").state_dict()
    assert json.loads(json.dumps(state)) == state
    next_second()
    resumed = follow(tmp_path, losses=(1.0, 0.5, 0.25, 0.125), state=state, mode="offline")
    assert resumed.state_dict() == state
    first, second = inspect(tmp_path, 0), inspect(tmp_path, 1)
    assert pick(first, "run")[0]["run_id"] == pick(second, "run")[0]["run_id"] == state["run_id"]
    assert curve(first) == [(0, 1.0), (1, 0.5)]
    assert curve(second) == [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125)]
    assert [len(marks(tmp_path, number)) for number in (0, 1)] == [1, 0]  # the first is superseded


def test_disabled_writes_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    follow(folder, mode="disabled")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    follow(folder, mode="auto")
    assert list(folder.iterdir()) == []


def test_required_refuses_what_is_not_online(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no API key"):
        follow(tmp_path, required=True)
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        with pytest.raises(ConfigError, match="WANDB_MODE"):
            follow(tmp_path, required=True)
    assert not list(tmp_path.glob("wandb/offline-run-*"))


def test_an_unknown_mode_variable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ConfigError, match="WANDB_MODE='of'"):
        follow(tmp_path)


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install"):
        follow(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"project": f"a{char}b"}, "project") for char in "/\\#?%:"),
        ({"project": ""}, "project"),
        ({"project": "x" * 129}, "project"),
        ({"mode": "onlin"}, "onlin"),
        ({"required": True, "mode": "offline"}, "required"),
        ({"required": True, "mode": "disabled"}, "required"),
        ({"init_timeout": 0}, "init_timeout"),
        ({"every_steps": -1}, "every_steps"),
        ({"finish_timeout": float("nan")}, "finish_timeout"),
    ],
)
def test_what_wandb_cannot_use_is_refused_at_construction(change, message):
    with pytest.raises(ConfigError, match=message):
        make_tracker(**change)


def test_importing_the_trackers_needs_neither_wandb_nor_torch():
    code = (
        "import sys, kdbench.tracker.wandb, kdbench.records.rows, kdbench.tracker.display; "
        "sys.exit(bool({'wandb', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
