"""Sends the lines of a run's train.log to a tracker, without secrets."""

import logging
from collections.abc import Callable

from kdbench.tracker.redact import redact_line

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Console(logging.Handler):
    """Forwards the log messages of the process that belong to one run, or to none in particular.

    The terminal itself is not captured: it has messages of other learners, the progress bar and
    prints of libraries, from which secrets could not be removed line by line.

    Args:
        name: of the run, as in ``engine/runlog.py``.
        write: called with each line; its exceptions are dropped.
    """

    def __init__(self, name: str, write: Callable[[str], object]) -> None:
        super().__init__()
        self._name, self._write = name, write
        self.setFormatter(logging.Formatter(_FORMAT))

    def open(self) -> None:
        """Starts forwarding."""
        logging.getLogger().addHandler(self)

    def close(self) -> None:
        """Stops forwarding; a second call does nothing."""
        logging.getLogger().removeHandler(self)
        super().close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops messages of other runs, and of W&B itself."""
        if getattr(record, "run", self._name) != self._name or record.name.startswith("wandb"):
            return False
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a lost line must not stop the run."""
        try:
            self._write(redact_line(self.format(record)))
        except Exception:
            self.close()
