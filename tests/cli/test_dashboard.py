import json
import os
import subprocess
import sys

import pytest

from kdbench.cli.dashboard import _parse, dashboard
from kdbench.errors import ConfigError, ExitCode
from kdbench.records.convergence import LEVELS
from kdbench.records.record import read_record
from kdbench.records.rows import read_metrics
from kdbench.tracker import panels
from tests.helpers.paths import ROOT
from tests.helpers.wandb_child import follow

pytestmark = pytest.mark.usefixtures("wandb_nobody")


def run(*arguments):
    return dashboard(_parse([str(argument) for argument in arguments]))


def build(tmp_path, *arguments):
    pytest.importorskip("wandb_workspaces", reason="needs pip install 'kdbench[dashboard]'")
    out = tmp_path / "dashboard.json"
    assert run("--out", out, *arguments) == ExitCode.NOT_IN_WANDB
    return json.loads(out.read_text())


def test_a_folder_is_written_into(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="needs pip install 'kdbench[dashboard]'")
    for out in (tmp_path, tmp_path / "made"):
        assert run("--out", out) == ExitCode.NOT_IN_WANDB
        assert json.loads((out / "kdbench-dashboard.json").read_text())


def sections(workspace):
    return workspace["spec"]["section"]["panelBankConfig"]["sections"]


def run_set(workspace):
    return workspace["spec"]["section"]["runSets"][0]


def in_a_process(folder, *arguments):
    """W&B reads its environment once per process."""
    return subprocess.run(
        [sys.executable, "-m", "kdbench.cli.dashboard", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_without_a_login_it_is_written_and_reported(tmp_path, capsys):
    document = build(tmp_path)
    output = capsys.readouterr().out
    assert f"written as JSON: {tmp_path / 'dashboard.json'}" in output
    assert "not saved in W&B: no API key" in output
    assert [section["name"] for section in sections(document["workspace"])] == [
        "Accuracy",
        "Convergence",
        "Temperature",
        "Agreement with the teacher",
        "Cost",
    ]


def test_the_workspace_groups_by_strategy_over_epochs(tmp_path):
    workspace = build(tmp_path)["workspace"]
    names = [key["name"] for key in run_set(workspace)["grouping"]]
    assert names == ["pair.value", "method.value", "strategy.value"]
    assert workspace["spec"]["section"]["settings"]["useRunsTableGroupingInPanels"]
    curves = [
        panel["config"]
        for section in sections(workspace)
        for panel in section["panels"]
        if panel["viewType"] == "Run History Line Plot"
    ]
    batches = [c for c in curves if any(name.startswith("batch/") for name in c["metrics"])]
    assert {config["xAxis"] for config in batches} == {"step"}
    assert {config["xAxis"] for config in curves if config not in batches} == {"epoch"}
    assert all(config["chartTitle"] and config["yAxisTitle"] for config in curves)
    (teacher,) = [c for c in curves if c["chartTitle"].startswith("Teacher: mean")]
    assert teacher["metrics"] == [f"temperature/teacher_{name}" for name in ("mean", "p5", "p95")]


def test_grouping_filters_and_text_are_choices(tmp_path):
    text = tmp_path / "table.md"
    text.write_text("| method | top-1 |\n|---|---|\n| <script> | 70 |\n")
    document = build(
        tmp_path,
        *("--project", "other", "--group-by", "temperature", "temperature_start"),
        *("--where", "table=demo", "seed=0", "--text", text),
    )
    workspace, report = document["workspace"], document["report"]
    assert (workspace["project"], report["project"]["name"]) == ("other", "other")
    grids = [block for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == len(panels.sections())
    for runs in (run_set(workspace), *(grid["metadata"]["runSets"][0] for grid in grids)):
        names = [key["name"] for key in runs["grouping"]]
        assert names == ["temperature.value", "temperature_start.value"]
        wanted = {f["key"]["name"]: f["value"] for f in runs["filters"]["filters"]}
        assert wanted == {"jobType": "train", "table": "demo", "seed": 0}
    assert any("<script>" in json.dumps(block) for block in report["spec"]["blocks"])


def test_every_metric_that_is_shown_is_measured(kdbench):
    """A chart of a metric under another name would be empty for ever."""
    code, output = kdbench()
    assert code == 0, output
    (folder,) = (path.parent for path in kdbench.runs)
    rows = read_metrics(folder / "metrics.csv") + read_metrics(folder / "timings.csv")
    measured = {name for row in rows for name in row} | set(read_record(folder).numbers())
    # W&B alone has these; test_tracker_wandb.py reads them back.
    measured |= {"test/top1_best", "batch/loss"}
    measured |= {f"batch/temperature_{who}_mean" for who in ("teacher", "student")}
    measured |= {name.replace("test/", "val/") for name in measured}
    measured |= {f"convergence/epochs_to_{level}" for level in LEVELS}
    assert {
        name for section in panels.sections() for c in section.charts for name in c.metrics
    } <= measured


def test_with_a_login_both_are_saved(tmp_path, wandb_server):
    pytest.importorskip("wandb_workspaces", reason="needs pip install 'kdbench[dashboard]'")
    done = in_a_process(tmp_path, "--where", "table=demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report saved: {wandb_server.url}/me/kdbench/reports/" in done.stdout
    assert f"workspace saved: {wandb_server.url}/me/kdbench?nw=" in done.stdout
    assert [view["type"] for view in wandb_server.views] == ["runs", "project-view"]
    assert not list(tmp_path.glob("*.json"))


def test_what_wandb_refuses_is_written(tmp_path, wandb_server, monkeypatch):
    pytest.importorskip("wandb_workspaces", reason="needs pip install 'kdbench[dashboard]'")
    monkeypatch.setenv("WANDB_API_KEY", "canary-malformed-key")
    done = in_a_process(tmp_path)
    assert done.returncode == ExitCode.NOT_IN_WANDB
    assert "not saved in W&B" in done.stdout
    assert (tmp_path / "kdbench-dashboard.json").exists()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("canary" in text for text in [done.stdout, done.stderr, *written])


def test_offline_runs_are_uploaded_by_one_command(tmp_path, wandb_server):
    outputs = tmp_path / "outputs"
    for name in "ab":
        follow(outputs / name, mode="offline")
    first, second = (in_a_process(tmp_path, "--sync", outputs) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "uploaded 2 of 2 offline runs" in first.stdout
    assert [wandb_server.curve(run_id) for run_id in wandb_server.runs] == [
        [(0, 1.0), (1, 0.5)]
    ] * 2
    assert (second.returncode, second.stdout) == (0, f"nothing to upload below {outputs}\n")


def test_without_a_login_nothing_is_uploaded_and_that_is_reported(tmp_path, capsys):
    follow(tmp_path / "a", mode="offline")
    assert run("--sync", tmp_path) == ExitCode.NOT_IN_WANDB
    assert "nothing was uploaded, W&B is not available: no API key" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.synced"))


def test_what_cannot_be_meant_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="must be a folder"):
        run("--sync", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="COLUMN=VALUE"):
        run("--where", "temperature.tau=4")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name in ("nowhere.md", "picture.png"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            run("--text", tmp_path / name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "kdbench.tracker.views", raising=False)
    monkeypatch.delattr("kdbench.tracker.views", raising=False)
    with pytest.raises(ConfigError, match="pip install"):
        run()


def test_help_needs_neither_torch_nor_wandb():
    code = (
        "import sys, kdbench.cli.dashboard; "
        "sys.exit(bool({'torch', 'wandb', 'wandb_workspaces'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
