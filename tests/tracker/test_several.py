"""Several trackers at once: each gets everything, and none can harm the others."""

import pytest

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.errors import ConfigError
from kdbench.tracker.several import SeveralTrackers
from tests.helpers.wandb_child import make_config, make_identity, make_point, make_row
from tests.tracker.test_tensorboard import curves
from tests.tracker.test_wandb import curve, inspect


class Recorder:
    """Writes down how it is called; raises where it is asked to."""

    def __init__(self, every_steps=0, fails=(), error=RuntimeError):
        self.every_steps, self.fails, self.error, self.calls = every_steps, fails, error, []

    def _note(self, what, *values):
        self.calls.append((what, *values))
        if what in self.fails:
            raise self.error(f"cannot {what}")

    def start(self, identity, config, state):
        self._note("start", state)

    def log(self, row):
        self._note("log", row["step"])

    def log_point(self, point):
        self._note("point", point["step"])

    def finish(self, status, summary):
        self._note("finish", status)

    def state_dict(self):
        self._note("state")
        return {"seen": len(self.calls)}


def follow(tracker, folder, state=None):
    tracker.start(make_identity(folder), make_config(), state)
    tracker.log_point(make_point(6))
    tracker.log(make_row(0, 1.0))
    found = tracker.state_dict()
    tracker.finish("done", {"top1_last": 50.0})
    return found


@pytest.mark.parametrize("fails", ["start", "log", "point", "state", "finish"])
def test_one_that_fails_does_not_stop_the_others(tmp_path, caplog, fails):
    good, bad = Recorder(2), Recorder(2, fails=(fails,))
    follow(SeveralTrackers({"bad": bad, "good": good}), tmp_path)
    assert [what for what, *_ in good.calls] == ["start", "point", "log", "state", "finish"]
    assert bad.calls[-1][0] == fails
    assert f"tracker bad is dropped: its {fails if fails != 'point' else 'log_point'}" in (
        caplog.text.replace("state_dict", "state")
    )


def test_points_come_as_often_as_each_wants():
    often, seldom, never = Recorder(4), Recorder(6), Recorder(0)
    tracker = SeveralTrackers({"often": often, "seldom": seldom, "never": never})
    assert tracker.every_steps == 2
    for step in (2, 4, 6, 12):
        tracker.log_point(make_point(step))
    assert [step for _, step in often.calls] == [4, 12]
    assert [step for _, step in seldom.calls] == [6, 12]
    assert never.calls == []
    assert SeveralTrackers({"never": never}).every_steps == 0


def test_each_gets_its_own_state_back(tmp_path):
    first = follow(SeveralTrackers({"a": Recorder(), "b": Recorder(6)}), tmp_path)
    a, b, alone = Recorder(), Recorder(6), Recorder()
    follow(SeveralTrackers({"a": a, "b": b}), tmp_path, first)
    assert (a.calls[0], b.calls[0]) == (("start", {"seen": 3}), ("start", {"seen": 4}))
    follow(SeveralTrackers({"a": alone}), tmp_path, {"run_id": "of one that was alone"})
    assert alone.calls[0] == ("start", {"run_id": "of one that was alone"})
    assert first["seen"] == 4  # one of them can go on alone


def test_one_that_is_required_and_cannot_work_is_an_error(tmp_path):
    good, bad = Recorder(), Recorder(fails=("start",), error=ConfigError)
    with pytest.raises(ConfigError, match="cannot start"):
        SeveralTrackers({"good": good, "bad": bad}).start(
            make_identity(tmp_path), make_config(), None
        )
    assert good.calls[-1] == ("finish", "failed")
    with pytest.raises(ConfigError, match="name at least one"):
        SeveralTrackers({})


@pytest.mark.usefixtures("wandb_nobody")
def test_wandb_and_tensorboard_have_the_same_curves(tmp_path):
    offline = ["tracker=wandb_tensorboard", "tracker.trackers.wandb.mode=offline"]
    tracker = build(
        compose_config([*offline, "tracker.trackers.tensorboard.every_steps=2"]).tracker
    )
    tracker.start(make_identity(tmp_path), make_config(), None)
    for epoch in range(3):
        tracker.log(make_row(epoch, 1.0 / 2**epoch))
    tracker.finish("done", {"top1_last": 52.0})
    records = inspect(tmp_path)
    for name in ("train/loss", "test/top1", "test/top1_best", "temperature/teacher_p5"):
        steps = [step for _, step in curve(records, "step")]
        sent = list(zip(steps, [value for _, value in curve(records, name)], strict=True))
        assert curves(tmp_path)[name] == sent, name
