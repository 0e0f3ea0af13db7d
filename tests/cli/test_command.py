"""How a console script ends, whatever happens in it."""

import pytest

from kdbench.cli.command import run_command
from kdbench.errors import ConfigError, DataError, ExitCode, Preempted


def end(error, capsys, **options):
    def work():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(work, **options)
    return ended.value.code, capsys.readouterr().err


def test_what_is_returned_is_the_code():
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: ExitCode.DIFFERENT)
    assert (ended.value.code, type(ended.value.code)) == (11, int)


@pytest.mark.parametrize(
    ("error", "code", "output"),
    [
        (ConfigError("no such key"), ExitCode.CONFIG, "error: no such key\n"),
        (Preempted("saved"), ExitCode.PREEMPTED, "saved\n"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted\n"),
    ],
)
def test_what_is_expected_is_reported_in_a_line(error, code, output, capsys):
    assert end(error, capsys) == (code, output)


def test_a_bug_has_its_traceback_in_the_log(capsys, caplog):
    code, output = end(ZeroDivisionError("oh"), capsys)
    assert code == ExitCode.BUG
    assert "This is a bug in kdbench" in output
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: oh" in caplog.text


def test_a_failure_within_a_sweep_has_its_own_code_but_a_wrong_config_has_not(capsys):
    assert end(DataError("gone"), capsys, is_sweep=lambda: True)[0] == ExitCode.SWEEP
    assert end(ConfigError("x=?"), capsys, is_sweep=lambda: True)[0] == ExitCode.CONFIG
