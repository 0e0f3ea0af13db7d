"""One process per run folder.

Two things say who works in a folder. ``run.lock`` is locked with flock, which the operating system
undoes when the process dies, however it dies. ``run.owner.json`` names the process, and is touched
every ``BEAT`` seconds. Where the file system knows flock, that decides; an owner that is alive
counts too, because some file systems keep flock to the host that asks. Where it does not know
flock, the owner file itself is the lock: it is created by one process and no other.
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
BEAT = 30.0  # seconds between two signs of life
STALE = 150.0  # seconds without one, after which a process on another host counts as gone
GRACE = 1.0  # seconds
LOOK = 0.2  # seconds between two tries of somebody who waits

_ENDED = {"Z", "X"}  # states of processes that nobody has waited for yet
_BUSY = {errno.EAGAIN, errno.EACCES}
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

log = logging.getLogger(__name__)


class StaleLockError(LockedError):
    """Nobody can tell whether the owner of a folder still lives: a person has to look."""


class _DyingError(LockedError):
    """The owner seems to be alive and has no flock."""


@dataclass(frozen=True)
class Owner:
    """The process that works in a folder.

    Attributes:
        pid, host, since: who and when, for people too.
        begun: when the process began, in ticks of its host; pids are used again.
        token: of this very hold.
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
        """Whether it is known to be gone; of other hosts nothing is known."""
        return self.is_here and _begin_of(self.pid) != self.begun


@contextmanager
def run_lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds a run folder for this process; when the process dies, it is free.

    Args:
        folder: of the run; made if it does not exist.
        patience: seconds, >= 0, to wait for another holder; ``math.inf`` for as long as it lives.

    Raises:
        LockedError: after that time another process still holds the folder; its pid, host and start
            are named.
        StaleLockError: the holder has shown no sign of life for long, and the file system cannot
            tell whether it is gone. Waiting would not help.
        ResourceError: the folder cannot be made or written.
    """
    make_folder(folder)
    refuse_links(folder)
    descriptor, owner = _wait_for(folder, patience)
    with _beating(folder / OWNER):
        try:
            yield
        finally:
            if _read(folder / OWNER) == owner:  # not where a person has given the folder away
                (folder / OWNER).unlink(missing_ok=True)
            if descriptor is not None:
                _close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process works on a run just now; asking gets in nobody's way."""
    path = folder / OWNER
    if not path.exists():
        return False
    owner, age = _read(path), _age(path)
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # read-only, or no lock file: the owner alone can tell
        return _seems_alive(owner, age)
    try:
        locked = _flock(descriptor)
    finally:
        os.close(descriptor)  # which gives back what it may have got
    if locked is None:
        return _seems_alive(owner, age)
    return not locked or (owner is not None and _seems_alive(owner, age))


def _wait_for(folder: Path, patience: float) -> tuple[int | None, Owner]:
    """The locked descriptor, None where the owner file is the lock; and who this process is."""
    begin = time.monotonic()
    end, told = begin + patience, False
    while True:
        try:
            return _acquire(folder)
        except StaleLockError:
            raise
        except LockedError as error:
            # A process that is being killed has lost its locks a moment before it is gone.
            dying = time.monotonic() < begin + GRACE and isinstance(error, _DyingError)
            if time.monotonic() >= end and not dying:
                raise
            if not told and patience:
                log.info("waiting: %s", error)
            told = True
        time.sleep(LOOK)


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
    """Whether this descriptor has the lock now; None where the file system knows no flock."""
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
        path.unlink(missing_ok=True)  # of a process that was killed
        return _create(path)


def _take_without_flock(folder: Path) -> Owner:
    path = folder / OWNER
    with naming(path), suppress(FileExistsError):
        created = _create(path)
        log.info("%s: the file system has no flock; %s is the lock", folder, OWNER)
        return created
    owner, age = _read(path), _age(path)
    if owner is not None and owner.is_dead:
        replaced = _replace(path, owner)
        if replaced is not None:
            return replaced
    raise _locked(folder, owner, age, by_file=True)


def _replace(path: Path, dead: Owner) -> Owner | None:
    """Takes over from a dead process of this host, if no other process does so just now."""
    with socket.socket(socket.AF_UNIX) as referee:
        try:  # a name that one process of this host can have at a time, and none after its death
            referee.bind(f"\0kdbench-{dead.token}")
        except OSError:
            return None
        if _read(path) != dead:
            return None
        with naming(path), suppress(FileExistsError):  # somebody came while there was none
            path.unlink()
            return _create(path)
    return None


def _create(path: Path) -> Owner:
    now = timestamp()
    pid = os.getpid()
    owner = Owner(pid, socket.gethostname(), now, _begin_of(pid), secrets.token_hex(8))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        os.write(descriptor, json.dumps(asdict(owner)).encode())
    finally:
        os.close(descriptor)
    return owner


def _locked(folder: Path, owner: Owner | None, age: float, by_file: bool = False) -> LockedError:
    who = owner.describe() if owner is not None else "another process"
    sign = f"its last sign of life was {clock(age)} ago"
    is_silent = age > STALE and (owner is None or not owner.is_here)
    if by_file and is_silent:
        return StaleLockError(
            f"{folder} belongs to {who}; {sign}, and the file system cannot tell whether it still "
            f"works there. If it is gone, remove {folder / OWNER} and start this command again"
        )
    elsewhere = f" ({sign})" if owner is not None and not owner.is_here else ""
    return LockedError(
        f"{folder} is being worked on by {who}{elsewhere}; wait for it, or stop it and start this "
        f"command again"
    )


def _seems_alive(owner: Owner | None, age: float) -> bool:
    if owner is not None and owner.is_here:
        return not owner.is_dead
    return age < STALE


def _read(path: Path) -> Owner | None:
    """None where there is none, or it is being written."""
    try:
        content = json.loads(path.read_text())
        return Owner(**{field.name: content[field.name] for field in fields(Owner)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system where that is possible.

    Hosts disagree about the time, and the lock file beside it can be touched.
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


def _begin_of(pid: int) -> int:
    """When a process of this host began; 0 if there is none, 1 where only its existence shows."""
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
    """Shows signs of life for as long as it is open."""
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


_open: set[int] = set()  # descriptors of locks


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    """A data loader that outlives its parent must not keep the parent's locks."""
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_close_in_child)
