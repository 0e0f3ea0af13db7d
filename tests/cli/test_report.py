"""``kdbench-report``, as a person uses it."""

import subprocess
import sys

import pytest

from kdbench.cli.report import main
from tests.helpers.synthetic import Study, write_run, write_study, write_trouble
from tests.helpers.waiting import count_calls

SMALL = Study(rows=(("scratch", "none"), ("kd", "constant"), ("kd", "cosine")), seeds=2, epochs=2)


@pytest.fixture
def outputs(tmp_path):
    write_study(tmp_path, SMALL)
    return tmp_path


@pytest.fixture
def report(outputs, capsys, monkeypatch):
    """Runs the command; returns its exit code, and what it printed on both streams."""

    def run(*arguments, folder=outputs):
        monkeypatch.setattr(sys, "argv", ["kdbench-report", str(folder), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return run


def test_prints_and_writes(report, outputs):
    code, out, err = report()
    assert (code, err) == (0, "")
    assert out.startswith("cifar100, 2 epochs, protocol paper\n")
    assert "12 of 12 runs" in out
    written = {path.name for path in (outputs / "report").iterdir()}
    assert written == {"table.md", "table.tex", "table.csv", "report.html"}
    assert report()[:2] == (code, out)  # what it wrote is no run


def test_another_folder(report, tmp_path):
    assert report("--out", str(tmp_path / "elsewhere" / "deep"))[0] == 0
    assert (tmp_path / "elsewhere" / "deep" / "table.csv").exists()


def test_figures_leave_the_page(report, tmp_path):
    code, out, _ = report("--figures", str(tmp_path / "drawn"))
    assert code == 0
    written = {path.name for path in (tmp_path / "drawn").iterdir()}
    prefix = "cifar100-resnet56_resnet20-"
    assert {f"{prefix}learning.{ending}" for ending in ("pdf", "svg", "png")} <= written
    assert f"{len(written)} figures (PDF, SVG, PNG) in " in out


def test_trouble_is_reported_and_not_fatal(report, outputs):
    write_trouble(outputs, SMALL)
    changed = write_run(outputs, SMALL, SMALL.pairs[0], "kd", "step", 94) / "metrics.csv"
    changed.write_text(changed.read_text().replace("0.05", "0.06"))
    code, out, err = report()
    assert code == 0
    assert "1 failed" in out
    assert "Failed: 1\n" in out
    assert "kd-random/seed90: ce, kd not finite at step 71" in out
    assert "kd-cosine/seed91/record.json is damaged" in err
    assert "left out: " in err
    assert "kd-linear/seed92 is unfinished" in err
    assert "kd-step/seed94/metrics.csv was changed after the run ended" in err


def begin(outputs, name, config):
    (outputs / name / ".hydra").mkdir(parents=True)
    (outputs / name / ".hydra" / "config.yaml").write_text(config)


def test_unfinished_runs_are_folded_and_chosen_by_their_configs(report, outputs):
    for seed in range(12):
        begin(outputs, f"begun{seed:02}", f"seed: {seed}\n")
    _, out, err = report()
    assert err.count("is unfinished") == 5
    assert "and 7 more, listed on the page" in err
    assert "Unfinished runs, not in the table: 12" in " ".join(out.split())
    page = (outputs / "report" / "report.html").read_text()
    assert all(f"begun{seed:02}" in page for seed in range(12))
    _, out, err = report("--where", "seed<2")
    assert err.count("is unfinished") == 2
    assert "Unfinished runs, not in the table: 2" in " ".join(out.split())


def test_a_run_that_failed_before_it_had_a_record_is_listed_with_its_reason(report, outputs):
    begin(outputs, "begun", "seed: 1\n")
    begin(outputs, "failed", "seed: 1\n")
    log = "2026-11-21 18:00:01 failed: no room on the disk\nTraceback (most recent call last):\n"
    (outputs / "failed" / "train.log").write_text(log)
    (outputs / "begun" / "train.log").write_text(f"{log}[2026-11-21 18:09:01,1][kdbench] again\n")
    _, out, err = report()
    assert "Failed: 1\n" in out
    assert f"  {outputs / 'failed'}: no room on the disk\n" in out
    assert err == f"left out: {outputs / 'begun'} is unfinished\n"


def test_odd_records_do_not_kill_the_report(report, outputs):
    pair = SMALL.pairs[0]
    write_run(outputs, SMALL, pair, "kd", "random", 10**40)
    write_run(outputs, SMALL, pair, "kd", "random", 3 * 10**9)  # a seed as any other
    write_run(outputs, SMALL, pair, "kd", "random", 8, test={"nll": float("nan")})
    write_run(outputs, SMALL, pair, "kd", "random", 9, method="x" * 200_000)
    write_run(outputs, SMALL, pair, "kd", "step", 9, top1_last=float("nan"))
    for metric in ("top1_last", "nll"):
        code, out, err = report("--metric", metric)
        assert code == 0, err
        assert "13 of 13 runs" in out
        assert err.count("record.json is ") == 4
        assert len(err) < 3000
    assert "3000000000" in (outputs / "report" / "report.html").read_text()


def test_a_teacher_alone_is_reported_in_words_that_do_not_blame_a_condition(report, tmp_path):
    folder = write_run(tmp_path / "only", SMALL, SMALL.pairs[0], "teacher", "none", 0)
    code, _, err = report(folder=folder)
    assert code == 3
    assert "trained a teacher, but a table compares students" in err
    assert f"kdbench-evaluate {folder}" in err
    assert "--where" not in err


def test_a_compact_table(report, outputs):
    code, out, _ = report("--compact")
    assert code == 0
    assert ["student", "resnet20", "wrn_16_2"] in [line.split() for line in out.splitlines()]
    assert "best epoch" not in out
    written = {path.name for path in (outputs / "report").iterdir()}
    assert {"compact.md", "compact.tex", "compact.csv", "table.csv"} <= written


def test_options(report):
    code, out, _ = report(
        *["--metric", "agreement", "--rows", "temperature", "--columns", "dataset"],
        *["--where", "pair=resnet56_resnet20", "seed<1", "--baseline", "constant"],
        *["--sort", "mean", "--protocol", "paper"],
    )
    assert code == 0
    assert "agreement with the teacher, %" in out
    assert "3 of 12 runs" in out
    assert "against constant" in out


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--where", "seed<0"], 3, "none of the 12 runs"),
        (["--protocol", "strict"], 3, "none of the 12 runs"),
        (["--where", "sede=1"], 2, "no run has 'sede'"),
        (["--metric", "beauty"], 2, "allowed are top1_last"),
        (["--rows", "pair"], 2, "both 'pair'"),
        (["--rows", "objective", "--table", "demo"], 2, "omit --rows and --columns"),
        (["--rows", "colour"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_shown(report, arguments, code, reason):
    found, _, err = report(*arguments)
    assert found == code
    assert reason in err


def test_no_runs(report, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = report(folder=tmp_path / "empty")
    assert code == 3
    assert "train one with kdbench-train" in err
    assert report(folder=tmp_path / "missing")[0] == 3


def test_a_planned_table(report, monkeypatch):
    pair = "cifar100, resnet56_resnet20"
    calls = []

    def plan(name, overrides):
        calls.append((name, overrides))
        return {("kd", pair): {0, 1, 2}, ("dkd", pair): {0, 1, 2}}

    monkeypatch.setattr("kdbench.planning.plan.planned_cells", plan)
    code, out, err = report("--table", "mine", "run.epochs=2", "paths.data=x")
    assert code == 0, err
    assert calls == [("mine", ["run.epochs=2", "paths.data=x"])]
    assert out.startswith("mine, cifar100, 2 epochs")
    assert "2 of 3" in out
    assert "0 of 3" in out
    assert "2 of 12 runs" in out  # of cells that are not in the plan there is nothing


def test_no_report_needs_torch(tmp_path):
    write_study(tmp_path, SMALL)
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from kdbench.cli.report import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "12 of 12 runs" in done.stdout
    assert done.stderr.splitlines()[-1] == "False"


@pytest.mark.slow
def test_more_runs_cost_in_proportion(report, tmp_path):
    calls = {}
    for seeds in (1, 5):
        folder = tmp_path / f"{seeds} seeds"
        write_study(folder, Study(seeds=seeds, epochs=20))
        calls[seeds] = count_calls(lambda folder=folder: report(folder=folder))
    assert calls[5] < 5 * calls[1]
