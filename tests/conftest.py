import os
import re
import signal
import sys

import pytest
import torch
from hypothesis import settings

from tests.helpers.bad_inputs import ROWS, WITHOUT_SUBJECT
from tests.helpers.commands import Cli
from tests.helpers.paths import SHARED
from tests.helpers.wandb_server import WELL_FORMED_KEY, Server

# Tests that were started in the background, or by nohup, inherit ignored signals and hand them on.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

settings.register_profile("kdbench", deadline=None)  # of time: a machine may be busy
settings.load_profile("kdbench")


def pytest_collection_modifyitems(items):
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="the real data in ../shared is not there")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    """How many rows of the table of bad inputs hold: those all of whose cases do."""
    seen: dict[str, set[int]] = {"passed": set(), "failed": set(), "error": set()}
    for outcome, rows in seen.items():
        for report in terminalreporter.stats.get(outcome, []):
            rows.update(map(int, re.findall(r"test_bad_inputs\.py.*\[row(\d+)", report.nodeid)))
    if any(seen.values()):
        failed = seen["failed"] | seen["error"]
        held = seen["passed"] - failed
        missing = f"; not yet: {', '.join(map(str, sorted(failed)))}" if failed else ""
        terminalreporter.write_line(f"bad inputs: {len(held)} of {ROWS} rows{missing}")
        for row in sorted(WITHOUT_SUBJECT):
            terminalreporter.write_line(f"  row {row} has no subject yet: {WITHOUT_SUBJECT[row]}")


@pytest.fixture
def shared():
    return SHARED


@pytest.fixture
def set_a():
    """The golden inputs "set A": two samples, four classes."""
    teacher = torch.tensor([[4.0, 1.0, -1.0, 0.5], [0.2, 3.0, 2.5, -2.0]], dtype=torch.float64)
    student = torch.tensor([[2.0, 1.5, -0.5, 0.0], [0.5, 1.0, 1.8, -1.2]], dtype=torch.float64)
    return teacher, student, torch.tensor([0, 1])


@pytest.fixture
def set_a3(set_a):
    """The golden inputs "set A3": set A and a third sample, for losses that relate samples."""
    third = torch.tensor([[-0.5, 0.3, 1.0, 2.2], [0.1, -0.4, 0.9, 0.6]], dtype=torch.float64)
    teacher, student, targets = set_a
    return (
        torch.cat([teacher, third[:1]]),
        torch.cat([student, third[1:]]),
        torch.cat([targets, torch.tensor([3])]),
    )


@pytest.fixture
def wandb_nobody(tmp_path, monkeypatch):
    """A user without W&B account, without settings, and without memory of earlier tests."""
    from kdbench.tracker.wandb import WandbTracker

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setattr(WandbTracker, "_unreachable", (0.0, ""))
    yield
    if "WANDB_API_KEY" in os.environ and "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it would remember the key of the test in this process


@pytest.fixture
def wandb_server(wandb_nobody, monkeypatch):
    """A stand-in for W&B's server, on which that user has an account."""
    with Server() as server:
        monkeypatch.setenv("WANDB_API_KEY", WELL_FORMED_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


@pytest.fixture
def kdbench(tmp_path):
    """Runs the command; returns its exit code and what it said."""
    cli = Cli(tmp_path)
    yield cli
    cli.close()
