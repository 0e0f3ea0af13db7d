import io
import logging
import os
import pty
import re
import subprocess
import sys
import termios
import textwrap

import pytest

from kdbench.tracker import display as module
from kdbench.tracker.display import Display
from tests.helpers.paths import ROOT

ROW = {
    "epoch": 3,
    "train/loss": 1.2341,
    "train/top1": 45.61,
    "test/top1": 50.1,
    "temperature/teacher_mean": 4.0,
    "temperature/student_mean": 4.0,
}


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that only moves when the test says so."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="kdbench")
    return lambda: [record.getMessage() for record in caplog.records]


def no_loss():
    pytest.fail("the loss was read, which would synchronise the device")


def named(*names):
    return {name: name for name in names}


def train(display, clock, steps, seconds=1.0, loss=no_loss):
    for _ in range(steps):
        clock[0] += seconds
        display.step(100, loss)


def test_in_a_pipe_an_epoch_is_one_line(clock, lines):
    stream = io.StringIO()
    display = Display(240, 10, named("kd"), stream)
    with display.start(step=20):
        train(display, clock, steps=10)
        clock[0] += 10.0  # the evaluation counts for the time left, not for the speed
        display.epoch({"kd": ROW})
    assert lines() == ["epoch 3/240  loss 1.234  train 45.6 %  test 50.1 %  T 4.00  left 1:19:00"]
    assert stream.getvalue() == ""


def test_speed_is_of_the_epoch_and_the_end_has_nothing_left(clock, lines):
    display = Display(2, 4, named("kd"), io.StringIO())
    with display:
        train(display, clock, steps=4)
        display.epoch({"kd": {"epoch": 1}})
        train(display, clock, steps=4, seconds=0.5)
        display.epoch({"kd": {"epoch": 2}})
    assert lines() == ["epoch 1/2  100 img/s  left 0:00:04", "epoch 2/2  200 img/s  left 0:00:00"]


def test_several_learners_have_a_line_each_and_a_failed_one_none(clock, lines):
    display = Display(3, 1, named("kd", "ctkd", "dtkd"), io.StringIO())
    with display:
        train(display, clock, steps=1)
        display.epoch({"kd": {"epoch": 1, "val/top1": 10.0}, "dtkd": {"epoch": 1}})
    assert [line.split("  ")[:3] for line in lines()] == [
        ["kd", "epoch 1/3", "val 10.0 %"],
        ["dtkd", "epoch 1/3", "100 img/s"],
    ]


def test_two_learners_with_one_name_have_a_line_each(clock, caplog):
    caplog.set_level("INFO")
    display = Display(3, 1, {"key0": "kd-seed0", "key1": "kd-seed0"}, io.StringIO())
    with display:
        train(display, clock, steps=1)
        display.epoch({"key0": {"epoch": 0, "test/top1": 1.0}, "key1": {"epoch": 0}})
    assert [record.run for record in caplog.records] == ["key0", "key1"]


def test_closing_twice_or_unopened_does_nothing():
    display = Display(1, 1, named("kd"), io.StringIO())
    display.close()
    display.start()
    display.close()
    display.close()


def test_on_a_terminal_the_loss_is_read_at_most_four_times_a_second(clock):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    reads = []
    display = Display(1, 1000, named("a", "b"), Terminal())
    with display:
        train(display, clock, steps=1000, seconds=0.01, loss=lambda: reads.append(0) or 0.5)
    assert 30 <= len(reads) <= 40  # ten seconds


def run_on_terminal(code):
    """What a program writes to a terminal of 120 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 120))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 4096):
            written += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    return written.decode()


def visible_lines(text):
    """The lines that stay on a terminal: a carriage return goes back and overwrites."""
    rows = []
    for row in text.split("\n"):
        cells = []
        for part in re.sub(r"\x1b\[A", "", row).split("\r"):
            cells[: len(part)] = part
        rows.append("".join(cells).rstrip())
    return [row for row in rows if row]


def test_on_a_terminal_the_bar_moves_and_lines_are_not_torn():
    text = run_on_terminal(
        """
        import logging, sys, time
        import tqdm.std
        now = [100.0]
        time.monotonic = tqdm.std.time = lambda: now[0]
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        from kdbench.tracker.display import Display

        before = list(logging.getLogger().handlers)
        with Display(2, 40, {"kd": "kd"}) as display:
            for epoch in range(2):
                for step in range(40):
                    now[0] += 0.016
                    display.step(64, lambda: 1.5)
                logging.getLogger("other").warning("a warning from elsewhere")
                display.epoch({"kd": {"epoch": epoch + 1, "test/top1": 51.25}})
        assert logging.getLogger().handlers == before
        """
    )
    bars = [part for part in re.split(r"[\r\n]", text) if "|" in part]
    assert len(bars) >= 3
    assert re.match(r"epoch 1/2 +0 % \|", bars[0])
    assert re.match(r"epoch 1/2  loss 1\.500  \d+ img/s  left 0:00:0\d +\d+ % \|", bars[1])
    assert any("epoch 2/2  loss 1.500  test 51.2 %" in bar for bar in bars)
    kept = visible_lines(text)
    assert kept[0] == kept[2] == "a warning from elsewhere"
    assert re.fullmatch(r"epoch 1/2  test 51\.2 %  \d+ img/s  left 0:00:0\d", kept[1])
    assert re.fullmatch(r"epoch 2/2  test 51\.2 %  \d+ img/s  left 0:00:00", kept[3])
    assert len(kept) == 4


def test_lines_fit_in_80_columns(clock, lines):
    """What matters least is left out; epoch, accuracy and time left stay."""
    row = {**ROW, "train/loss": 123.4567, "val/top1": 48.0, "temperature/student_mean": 3.25}
    long = "ctkd, resnet32x4_resnet8x4, seed 12"
    display = Display(240, 10, {"kd": "kd", "long": long}, io.StringIO())
    with display.start(step=20):
        train(display, clock, steps=10)
        display.epoch({"kd": row, "long": row})
        display.epoch({"kd": {"epoch": 4, "test/top1": 50.1}})
    assert lines() == [
        "kd  epoch 3/240  val 48.0 %  test 50.1 %  T 4.00/3.25  left 0:39:30",
        f"{long}  epoch 3/240  val 48.0 %  test 50.1 %  left 0:39:30",
        "kd  epoch 4/240  test 50.1 %  0 img/s  left 0:39:30",
    ]
    assert max(len(line.removeprefix(long)) for line in lines()) <= 80
