"""One process per run folder."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kdbench.errors import LockedError

log = logging.getLogger(__name__)


@contextmanager
def run_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Holds a run folder for this process; the operating system frees it when the process dies.

    Args:
        folder: of the run; made if it does not exist.
        wait: until another holder is done, instead of raising.

    Raises:
        LockedError: another process holds the folder; its pid, host and start are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / "run.lock"), folder / "run.owner.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise LockedError(
                f"{folder} is being worked on by {_describe(owner)}; wait for it, or stop it and "
                f"start this command again"
            ) from None
        log.info("waiting for %s, which works on %s", _describe(owner), folder)
        lock.acquire()
    try:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        owner.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started})
        )
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _describe(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
