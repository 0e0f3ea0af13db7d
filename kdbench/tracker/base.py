"""The interface of a tracker: read this first."""

from collections.abc import Mapping
from typing import Any, Protocol

from kdbench.records.identity import RunIdentity
from kdbench.records.metric import ACCURACIES


class Tracker(Protocol):
    """Follows one run. It never raises after ``start``: curves are not worth a training.

    Attributes:
        every_steps: steps from one point within an epoch to the next; 0: none.
    """

    every_steps: int

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens the run, or continues it.

        Args:
            identity: who the run is.
            config: the config of the run as plain, resolved containers; it has at least
                ``student.arch``, ``run.protocol`` and ``run.epochs``.
            state: ``state_dict()`` of the tracker that followed the run before; None at its start.

        Raises:
            ConfigError: the tracker is required by the config and cannot work.
        """
        ...

    def log(self, row: Mapping[str, float | int]) -> None:
        """One row an epoch; ``row["epoch"]`` and ``row["step"]`` are how many are done, from 1."""
        ...

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """What one batch within an epoch was like; ``point["step"]`` counts finished steps."""
        ...

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Closes the run as "done", "failed" or "preempted"; a second call does nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain types for the checkpoint: what ``start`` needs to continue the same curve."""
        ...


class NullTracker:
    """Follows nothing: the run has its metrics.csv and that is enough.

    It hands on the state it was given, so that a run that is restarted once without a tracker can
    be continued on its old curve later.
    """

    every_steps = 0

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Keeps the state."""
        self._state = dict(state or {})

    def log(self, row: Mapping[str, float | int]) -> None:
        """Nothing."""

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Nothing."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The state given to ``start``."""
        return dict(self._state)


def best_so_far(row: Mapping[str, float], best: Mapping[str, float]) -> dict[str, float]:
    """The best accuracies up to a row, such as "test/top1_best".

    Args:
        row: of an epoch.
        best: up to the row before.
    """
    names = {f"{name}_best": row[name] for name in ACCURACIES if name in row}
    return {**best, **{name: max(new, best.get(name, new)) for name, new in names.items()}}
