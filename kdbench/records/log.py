"""``train.log`` of a run, also in processes that train several runs.

A message about one run has ``extra=for_run(key)`` and goes only to the log of that run; all others
go to every log. For a run that Hydra starts, Hydra opens the log.
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


def for_run(key: str) -> dict[str, str]:
    """``extra`` of a message about the run with this run key."""
    return {"run": key}


@contextmanager
def run_log(folder: Path, key: str) -> Iterator[None]:
    """Writes the log of the run with this run key while it is open."""
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
    """Appends an error and its traceback to the log of a run, once per error.

    The message is also shown elsewhere, so a log that cannot be written is only a warning.
    """
    logged: set[Path] = vars(error).setdefault("_in_logs_of", set())
    if folder in logged:
        return
    logged.add(folder)
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    try:
        refuse_links(folder)
        with (folder / LOG).open("a") as file:
            file.write(f"{now} failed: {describe_error(error)}\n")
            file.writelines(traceback.format_exception(error))
    except (OSError, ResourceError) as problem:
        log.warning("%s could not be written: %s", folder / LOG, problem)


class LogFile(logging.FileHandler):
    """The log of a run; refuses a folder with links in it.

    It is the first file that Hydra opens in a run folder. If it cannot be written any more, as on
    a full disk, it says so once: the base class would print a traceback for each line.
    """

    _reported = False

    def __init__(self, filename: str | Path, mode: str = "a", encoding: str | None = None) -> None:
        refuse_links(Path(filename).parent)
        super().__init__(filename, mode, encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Called by the library while it handles an exception."""
        if not self._reported:
            self._reported = True
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
