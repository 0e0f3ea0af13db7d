"""Several trackers at once."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from kdbench.errors import ConfigError
from kdbench.records.identity import RunIdentity
from kdbench.tracker.base import Tracker
from kdbench.tracker.redact import describe_problem

logger = logging.getLogger("kdbench")

_STATE = "trackers"


class SeveralTrackers:
    """Forwards every call to several trackers. One that fails is dropped; the others continue.

    Args:
        trackers: by name, at least one; each with the options of its file in ``conf/tracker``.

    Raises:
        ConfigError: there are none.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        if not trackers:
            raise ConfigError("tracker.trackers is empty: name at least one, or use tracker=csv")
        self._trackers = dict(trackers)
        # A point is measured if any tracker wants it, and is sent only to those that do.
        self.every_steps = math.gcd(*(tracker.every_steps for tracker in trackers.values()))

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens all trackers.

        The state of a single previous tracker is passed to all: each finds its own part.

        Raises:
            ConfigError: one of them is required by the config and cannot work.
        """
        known = (state or {}).get(_STATE, {})
        try:
            self._each(
                "start", lambda name, one: one.start(identity, config, known.get(name, state))
            )
        except ConfigError:
            self.finish("failed", {})
            raise

    def log(self, row: Mapping[str, float | int]) -> None:
        """Sends a row to all trackers."""
        self._each("log", lambda name, one: one.log(row))

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Sends a point to the trackers whose interval it matches."""
        step = int(point["step"])
        self._each(
            "log_point",
            lambda name, one: (
                one.log_point(point) if one.every_steps and step % one.every_steps == 0 else None
            ),
        )

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Closes all trackers."""
        self._each("finish", lambda name, one: one.finish(status, summary))

    def state_dict(self) -> dict[str, Any]:
        """The states of all trackers by name, and merged so that any of them can continue alone."""
        states: dict[str, dict[str, Any]] = {}
        self._each("state_dict", lambda name, one: states.update({name: one.state_dict()}))
        together = {key: value for state in states.values() for key, value in state.items()}
        return {**together, _STATE: states}

    def _each(self, what: str, action: Callable[[str, Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(name, tracker)
            except ConfigError:
                raise
            except Exception as error:  # a broken tracker must not affect the others
                del self._trackers[name]
                logger.warning(
                    "tracker %s is dropped: its %s failed (%s); training is not affected",
                    name,
                    what,
                    describe_problem(error),
                )
