"""One process per run folder."""

import json
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kdbench.errors import LockedError
from kdbench.files import refuse_links

LOCK, OWNER = "run.lock", "run.owner.json"

log = logging.getLogger(__name__)


@contextmanager
def run_lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds a run folder for this process; the operating system frees it when the process dies.

    Args:
        folder: of the run; made if it does not exist.
        patience: seconds, >= 0, to wait for another holder; ``math.inf`` for as long as it takes.

    Raises:
        LockedError: after that time another process still holds the folder; its pid, host and start
            are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    lock, owner = FileLock(folder / LOCK), folder / OWNER
    try:
        _acquire(lock, patience, owner)
    except Timeout:
        raise LockedError(
            f"{folder} is being worked on by {_describe(owner)}; wait for it, or stop it and "
            f"start this command again"
        ) from None
    try:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        owner.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started})
        )
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process works on a run just now; asking gets in nobody's way."""
    if not (folder / OWNER).exists():
        return False
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False  # its process was killed
    except Timeout:
        return True


def _acquire(lock: FileLock, patience: float, owner: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not patience:
            raise
        log.info("waiting for %s, which works on %s", _describe(owner), owner.parent)
        lock.acquire(timeout=-1 if math.isinf(patience) else patience)


def _describe(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
