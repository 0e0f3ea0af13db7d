"""``train.log`` of a run, for processes in which several runs are under way.

A message that concerns one run carries ``extra=of(name)`` and goes to that run's log only; all
others concern everybody. Hydra brings the log of a run that it starts itself.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbench.files import refuse_links

LOG = "train.log"


def of(name: str) -> dict[str, str]:
    """For ``extra``: the message concerns the run of this name."""
    return {"run": name}


@contextmanager
def run_log(folder: Path, name: str) -> Iterator[None]:
    """Writes the log of a run for as long as it is open."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = LogFile(folder / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: getattr(record, "run", name) == name)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class LogFile(logging.FileHandler):
    """The log of a run; it opens nothing in a folder with links in it.

    Of all that Hydra writes into the folder of a run, it opens this first.
    """

    def __init__(self, filename: str | Path, mode: str = "a", encoding: str | None = None) -> None:
        refuse_links(Path(filename).parent)
        super().__init__(filename, mode, encoding)


def log_traceback(folder: Path, error: BaseException) -> None:
    """Puts where an error came from into the run's log; people get the message elsewhere."""
    refuse_links(folder)
    with (folder / LOG).open("a") as file:
        file.writelines(traceback.format_exception(error))
