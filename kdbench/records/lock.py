"""One process per run folder.

Two files show who uses a folder. ``run.lock`` is locked with flock, which the operating system
releases however the process dies. ``run.owner.json`` names the process and is touched every
``BEAT`` seconds. If the file system supports flock, the lock decides; a live owner counts too,
because on some file systems flock covers only one host. Without flock, the owner file is the lock:
only one process can create it.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kdbench.errors import LockedError
from kdbench.files import make_folder, naming, refuse_links
from kdbench.records.environment import timestamp
from kdbench.words import clock

LOCK, OWNER = "run.lock", "run.owner.json"
BEAT = 30.0  # seconds between heartbeats
STALE = 150.0  # seconds without a heartbeat after which a process on another host counts as dead
GRACE = 1.0  # seconds
RETRY_INTERVAL = 0.2  # seconds between attempts while waiting

_ENDED = {"Z", "X"}  # states of dead processes that have not been reaped
_BUSY = {errno.EAGAIN, errno.EACCES}
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

log = logging.getLogger(__name__)


class StaleLockError(LockedError):
    """It is unknown whether the owner of a folder is alive: a person has to check."""


class _DyingError(LockedError):
    """The owner seems to be alive but does not hold the flock."""


@dataclass(frozen=True)
class Owner:
    """The process that uses a folder.

    Attributes:
        pid, host, since: the process and when it took the lock.
        begun: start time of the process in ticks of its host, because pids are reused.
        token: unique to this lock.
    """

    pid: int
    host: str
    since: str
    begun: int
    token: str

    def describe(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be dead; always False for other hosts."""
        return self.is_here and _start_time(self.pid) != self.begun


@contextmanager
def run_lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Locks a run folder for this process, until it releases it or dies.

    Args:
        folder: of the run; created if missing.
        patience: seconds >= 0 to wait for another holder; ``math.inf`` to wait as long as it lives.

    Raises:
        LockedError: another process still holds the folder after that time; the message has its
            pid, host and start.
        StaleLockError: the holder has had no heartbeat for long, and the file system cannot tell
            whether it is dead. Waiting would not help.
        ResourceError: the folder cannot be created or written.
    """
    make_folder(folder)
    refuse_links(folder)
    descriptor, owner = _wait_for(folder, patience)
    with _beating(folder / OWNER):
        try:
            yield
        finally:
            if _read(folder / OWNER) == owner:  # unless a person has removed our owner file
                (folder / OWNER).unlink(missing_ok=True)
            if descriptor is not None:
                _close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process is using a run folder; does not disturb it."""
    path = folder / OWNER
    if not path.exists():
        return False
    owner, age = _read(path), _age(path)
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # read-only, or no lock file: only the owner file can tell
        return _seems_alive(owner, age)
    try:
        locked = _flock(descriptor)
    finally:
        os.close(descriptor)  # also releases the lock, if acquired
    if locked is None:
        return _seems_alive(owner, age)
    return not locked or (owner is not None and _seems_alive(owner, age))


def _wait_for(folder: Path, patience: float) -> tuple[int | None, Owner]:
    """The locked descriptor (None if the owner file is the lock) and this process as the owner."""
    begin = time.monotonic()
    end, logged = begin + patience, False
    while True:
        try:
            return _acquire(folder)
        except StaleLockError:
            raise
        except LockedError as error:
            # A process that is being killed loses its locks a moment before it is gone.
            dying = time.monotonic() < begin + GRACE and isinstance(error, _DyingError)
            if time.monotonic() >= end and not dying:
                raise
            if not logged and patience:
                log.info("waiting: %s", error)
            logged = True
        time.sleep(RETRY_INTERVAL)


def _acquire(folder: Path) -> tuple[int | None, Owner]:
    with naming(folder / LOCK):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / LOCK, flags, 0o666)
        try:
            locked = _flock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        if locked is None:
            owner = _take_without_flock(folder)
            os.close(descriptor)
            return None, owner
        owner = _take(folder, locked)
    except BaseException:
        os.close(descriptor)
        raise
    _open.add(descriptor)
    return descriptor, owner


def _flock(descriptor: int) -> bool | None:
    """Tries to lock: whether this descriptor now has the lock; None without support for flock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _take(folder: Path, locked: bool) -> Owner:
    path = folder / OWNER
    owner, age = _read(path), _age(path)
    if not locked:
        raise _locked(folder, owner, age)
    if owner is not None and _seems_alive(owner, age):
        raise _DyingError(str(_locked(folder, owner, age)))
    with naming(path):
        path.unlink(missing_ok=True)  # left by a killed process
        return _create(path)


def _take_without_flock(folder: Path) -> Owner:
    path = folder / OWNER
    with naming(path), suppress(FileExistsError):
        created = _create(path)
        log.info("%s: the file system does not support flock; using %s", folder, OWNER)
        return created
    owner, age = _read(path), _age(path)
    if owner is not None and owner.is_dead:
        replaced = _replace(path, owner)
        if replaced is not None:
            return replaced
    raise _locked(folder, owner, age, by_file=True)


def _replace(path: Path, dead: Owner) -> Owner | None:
    """Takes over from a dead process of this host, unless another process is doing so."""
    with socket.socket(socket.AF_UNIX) as referee:
        try:  # only one process of this host can bind the name, and its death frees it
            referee.bind(f"\0kdbench-{dead.token}")
        except OSError:
            return None
        if _read(path) != dead:
            return None
        with naming(path), suppress(FileExistsError):  # another process was faster
            path.unlink()
            return _create(path)
    return None


def _create(path: Path) -> Owner:
    now = timestamp()
    pid = os.getpid()
    owner = Owner(pid, socket.gethostname(), now, _start_time(pid), secrets.token_hex(8))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        os.write(descriptor, json.dumps(asdict(owner)).encode())
    finally:
        os.close(descriptor)
    return owner


def _locked(folder: Path, owner: Owner | None, age: float, by_file: bool = False) -> LockedError:
    who = owner.describe() if owner is not None else "another process"
    heartbeat = f"last heartbeat {clock(age)} ago"
    is_silent = age > STALE and (owner is None or not owner.is_here)
    if by_file and is_silent:
        return StaleLockError(
            f"{folder} is in use by {who} ({heartbeat}), and the file system cannot tell whether "
            f"it is still alive. If it is not, remove {folder / OWNER} and repeat this command"
        )
    elsewhere = f" ({heartbeat})" if owner is not None and not owner.is_here else ""
    return LockedError(
        f"{folder} is in use by {who}{elsewhere}; wait for it, or stop it and repeat this command"
    )


def _seems_alive(owner: Owner | None, age: float) -> bool:
    if owner is not None and owner.is_here:
        return not owner.is_dead
    return age < STALE


def _read(path: Path) -> Owner | None:
    """None if there is none or it is being written."""
    try:
        content = json.loads(path.read_text())
        return Owner(**{field.name: content[field.name] for field in fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _age(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system if possible.

    Clocks of hosts differ, so the lock file is touched for the current time.
    """
    try:
        last = path.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
    try:
        os.utime(path.with_name(LOCK), follow_symlinks=False)
        return path.with_name(LOCK).stat(follow_symlinks=False).st_mtime - last
    except OSError:
        return time.time() - last


def _start_time(pid: int) -> int:
    """Start time of a process of this host; 0 if there is none, 1 if it exists but is unknown."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        pass
    else:
        return 0 if state in _ENDED else int(rest[18])
    if Path("/proc/self/stat").exists():
        return 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        pass
    return 1


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touches a file regularly while it is open."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            with suppress(OSError):
                os.utime(path, follow_symlinks=False)

    thread = threading.Thread(target=beat, name="kdbench-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


_open: set[int] = set()  # descriptors of the locks that are held


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    """A data loader that outlives its parent must not hold the parent's locks."""
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_close_in_child)
