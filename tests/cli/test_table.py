"""``kdbench-table``: lists, plans, trains and prints a table; the settings of a method."""

import re
import subprocess
import sys

import pytest

import kdbench.planning.speed
from kdbench.cli.table import forecast, list_tables, main, parse, run_table
from kdbench.config.choices import options_of
from kdbench.config.compose import CONF
from kdbench.errors import ConfigError
from kdbench.planning.speed import Speed
from tests.helpers.harness import TINY

HERE = ["hydra/launcher=basic", "method=scratch", "temperature=constant", "seed=0", "table=demo"]


def test_without_a_name_the_tables_are_listed(capsys):
    assert run_table(parse([])) == 0
    listed = capsys.readouterr().out
    assert listed == f"{list_tables()}\n"
    assert [line.split()[0] for line in listed.splitlines()] == options_of(CONF / "table")
    assert all(len(line) <= 110 and len(line.split()) > 3 for line in listed.splitlines())
    assert run_table(parse(["--list"])) == 0


def test_options_that_exclude_each_other():
    for option in (["--list"], ["--settings", "ttm"]):
        with pytest.raises(ConfigError, match="takes neither a table nor overrides; remove demo"):
            run_table(parse(["demo", *option]))


def test_options_may_stand_behind_overrides():
    found = parse(["demo", "seed=0,1", "~tuned", "--dry"])
    assert (found.name, found.overrides, found.dry) == ("demo", ["seed=0,1", "~tuned"], True)


def test_an_unknown_method_is_corrected():
    with pytest.raises(ConfigError, match="method=tmm does not exist; did you mean ttm"):
        run_table(parse(["--settings", "tmm"]))


def test_the_forecast_times_networks_and_trains_nothing(tmp_path, capsys, monkeypatch):
    speed = Speed(macs=10**6, train=1e9, forward=1e9)
    monkeypatch.setattr(kdbench.planning.speed, "measure", lambda *_: speed)
    own = ["method=kd", "temperature=constant", "seed=0", "run.threads=1"]
    assert forecast("demo", [*own, f"paths.outputs={tmp_path}"]) == 0
    output = capsys.readouterr()
    assert "timing resnet8 on this machine, once" in output.err
    (line,) = [line for line in output.out.splitlines() if line.startswith("kd ")]
    assert "1 missing" in line
    assert re.search(r"resnet20 \(mnist5k, batches of 64\) +to be trained first", output.out)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_table_is_trained_and_printed(kdbench):
    own = [*TINY, *HERE[:-1], f"paths.outputs={kdbench.folder}/out"]
    code, output = kdbench.other("kdbench.cli.table", "demo", *own)
    assert code == 0, output
    assert "1 of 1 run" in output
    made = kdbench.folder / "out" / "tables" / "demo"
    assert {"report.html", "table.md", "table.csv"} <= {path.name for path in made.iterdir()}


def test_where_some_runs_fail_the_table_has_the_others(kdbench):
    own = [*TINY, *HERE[:-1], "optim.lr=0.05,1e30", f"paths.outputs={kdbench.folder}/out"]
    code, output = kdbench.other("kdbench.cli.table", "demo", *own)
    assert code == 9, output
    assert "Failed: 1" in output
    assert (kdbench.folder / "out" / "tables" / "demo" / "table.md").is_file()


def test_a_mistake_ends_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, code in ((["demo", "sed=1"], 2), (["dmo"], 2), (["demo", "--wet"], 2)):
        monkeypatch.setattr(sys, "argv", ["kdbench-table", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
    output = capsys.readouterr().err
    assert "did you mean seed" in output
    assert "did you mean demo" in output
    assert list(tmp_path.iterdir()) == []


def test_importing_it_needs_no_torch():
    code = "import kdbench.cli.table, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
