"""``train.log`` of a run, for processes in which several runs are under way.

A message that concerns one run carries ``extra=of(key)`` and goes to that run's log only; all
others concern everybody. Hydra brings the log of a run that it starts itself.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from kdbench.errors import ResourceError, describe_error
from kdbench.files import make_folder, naming, refuse_links

LOG = "train.log"

log = logging.getLogger(__name__)


def of(key: str) -> dict[str, str]:
    """For ``extra``: the message concerns the run with this run key."""
    return {"run": key}


@contextmanager
def run_log(folder: Path, key: str) -> Iterator[None]:
    """Writes the log of the run with this run key for as long as it is open."""
    make_folder(folder)
    with naming(folder / LOG):
        handler = LogFile(folder / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: getattr(record, "run", key) == key)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def log_failure(folder: Path, error: BaseException) -> None:
    """Puts why a run failed, and where that came from, into its log; each error once.

    People get the message elsewhere. A log that cannot be written is no reason to fail again.
    """
    told: set[Path] = vars(error).setdefault("_in_logs_of", set())
    if folder in told:
        return
    told.add(folder)
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    try:
        refuse_links(folder)
        with (folder / LOG).open("a") as file:
            file.write(f"{now} failed: {describe_error(error)}\n")
            file.writelines(traceback.format_exception(error))
    except (OSError, ResourceError) as problem:
        log.warning("%s could not be written: %s", folder / LOG, problem)


class LogFile(logging.FileHandler):
    """The log of a run; it opens nothing in a folder with links in it.

    Of all that Hydra writes into the folder of a run, it opens this first. A log that cannot be
    written any more, as on a full disk, says so once and stays quiet: the handler of the library
    would print a traceback for each line.
    """

    _told = False

    def __init__(self, filename: str | Path, mode: str = "a", encoding: str | None = None) -> None:
        refuse_links(Path(filename).parent)
        super().__init__(filename, mode, encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Called in an exception handler of the library."""
        if not self._told:
            self._told = True
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
