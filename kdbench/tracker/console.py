"""What a run says, as a tracker may have it: the lines of its train.log, without secrets."""

import logging
from collections.abc import Callable

from kdbench.tracker.redact import redact_line

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Console(logging.Handler):
    """Hands on each message of the process that concerns one run or everybody.

    Not the terminal itself: what other learners of the process say, the bar, and what libraries
    print would be in there, and nobody could take secrets out of it line by line.

    Args:
        name: of the run, as in ``engine/runlog.py``.
        write: takes a line; what it raises is dropped.
    """

    def __init__(self, name: str, write: Callable[[str], object]) -> None:
        super().__init__()
        self._name, self._write = name, write
        self.setFormatter(logging.Formatter(_FORMAT))

    def open(self) -> None:
        """From here on."""
        logging.getLogger().addHandler(self)

    def close(self) -> None:
        """No more; a second call does nothing."""
        logging.getLogger().removeHandler(self)
        super().close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops what concerns another run, and what W&B says of itself."""
        if getattr(record, "run", self._name) != self._name or record.name.startswith("wandb"):
            return False
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a lost line is no reason to stop."""
        try:
            self._write(redact_line(self.format(record)))
        except Exception:
            self.close()
