"""The interface of a tracker: read this first."""

from collections.abc import Mapping
from typing import Any, Protocol

from kdbench.records.identity import RunIdentity
from kdbench.records.metric import ACCURACIES


class Tracker(Protocol):
    """Tracks one run. Never raises after ``start``: tracking must not abort training.

    Attributes:
        every_steps: steps between points within an epoch; 0: no points.
    """

    every_steps: int

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens the run, or resumes it.

        Args:
            identity: key and names of the run.
            config: the config of the run as plain, resolved containers; it has at least
                ``student.arch``, ``run.protocol`` and ``run.epochs``.
            state: ``state_dict()`` of the previous tracker of the run; None for a new run.

        Raises:
            ConfigError: the tracker is required by the config and cannot work.
        """
        ...

    def log(self, row: Mapping[str, float | int]) -> None:
        """Logs an epoch; ``row["epoch"]`` and ``row["step"]`` count the finished ones, from 1."""
        ...

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Logs a batch within an epoch; ``point["step"]`` counts the finished steps."""
        ...

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Closes the run as "done", "failed" or "preempted"; a second call does nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint, in plain types: what ``start`` needs to continue the curves."""
        ...


class NullTracker:
    """Tracks nothing: the run only has its metrics.csv.

    It passes the given state on, so that a run that is resumed once without a tracker can later
    continue its curves.
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
        best: up to the previous row.
    """
    names = {f"{name}_best": row[name] for name in ACCURACIES if name in row}
    return {**best, **{name: max(new, best.get(name, new)) for name, new in names.items()}}
