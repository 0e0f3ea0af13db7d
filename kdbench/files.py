"""Writing files that must survive a crash: everything that kdbench keeps goes through here."""

import errno
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdbench import fault
from kdbench.errors import ResourceError

# What a run writes into its folder.
_FOLDERS = (".hydra", "checkpoint", "wandb", "evaluation", "export")
_FILES = (
    *("run.lock", "run.owner.json", "train.log", "record.json", "repetition.json"),
    *("metrics.csv", "timings.csv", "student.safetensors"),
)
_SAVED = ("config.yaml", "hydra.yaml", "overrides.yaml")
_MAY_NOT = {errno.EROFS, errno.EACCES, errno.EPERM}
ABANDONED = 3600.0  # seconds after which a file that nobody has finished is a leftover

log = logging.getLogger(__name__)


def write_atomic(path: Path, payload: bytes) -> None:
    """Replaces a file as a whole: whatever happens, it holds the old content or the new.

    Args:
        path: the file; folders above it are made where they are missing.
        payload: its whole new content.

    Raises:
        ResourceError: no space, no permission, a damaged disk; the old file is as it was.
    """
    # In the same folder, because a rename is atomic only within a file system; with a random
    # name, because several processes may write the same file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(temporary, payload)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"{path} could not be written: {error.strerror or error}; {len(payload):,} bytes are "
            f"needed, {_describe_room(path.parent)} there; make room, or choose another "
            "place with paths.outputs or paths.cache"
        ) from error
    finally:
        with suppress(OSError):  # after the rename there is nothing left to remove
            temporary.unlink()


def write_cache(path: Path, payload: bytes) -> None:
    """Keeps what can be computed again: where nobody may write, a warning says so.

    Raises:
        ResourceError: no space, or a damaged disk.
    """
    try:
        write_atomic(path, payload)
    except ResourceError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _MAY_NOT:
            raise
        log.warning("%s is not kept, and computed again next time: %s", path, error.__cause__)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within this context, what goes wrong with a file is an error that names it.

    Raises:
        ResourceError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be used: {error.strerror or error} ({_describe_room(path.parent)} "
            f"there); see paths.outputs"
        ) from error


def make_folder(folder: Path) -> None:
    """Makes a folder that kdbench writes into, with those above it.

    Raises:
        ResourceError: something else is in its place, or it may not be written.
    """
    with naming(folder):
        obstacle = _find_obstacle(folder)
        if obstacle:
            raise ResourceError(
                f"{obstacle}, and {folder} has to be a folder; move it away, or choose another "
                f"place with paths.outputs"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{folder} may not be written by this process (permissions, or a file system that "
                f"is mounted read-only); choose another place with paths.outputs"
            )


def _find_obstacle(folder: Path) -> str:
    """What is in the way of a folder, in words; empty where it is there or can be made."""
    for place in (folder, *folder.absolute().parents):
        if os.path.isdir(place):
            return ""
        if os.path.islink(place):
            return f"{place} is a link to {os.readlink(place)}, where no folder is"
        if os.path.lexists(place):
            return f"{place} is a file"
    return ""


def _write_new(path: Path, payload: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        middle = len(payload) // 2
        for half in (memoryview(payload)[:middle], memoryview(payload)[middle:]):
            rest = half
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            fault.point("write:half")
        os.fsync(descriptor)
        fault.point("write:synced")
    finally:
        os.close(descriptor)


def refuse_links(folder: Path, *inside: Path) -> None:
    """Refuses a run's folder in which links or folders stand where kdbench writes files.

    Who can plant a link there could have any file of the user's overwritten. That the folder
    itself lies behind a link is the user's own arrangement.

    Args:
        folder: of a run.
        inside: further folders in it that are written.

    Raises:
        ResourceError: names what is in the way.
    """
    folders = [*(folder / name for name in _FOLDERS), *inside]
    files = [folder / name for name in (*_FILES, *(f".hydra/{name}" for name in _SAVED))]
    for path in (*folders, *files):
        try:
            mode = path.lstat().st_mode
        except OSError:  # not there, and neither is what it would hide
            continue
        wanted = "a folder" if path in folders else "a file"
        if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
            found = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}
            raise ResourceError(
                f"{path} is {found.get(stat.S_IFMT(mode), 'something else')}, where kdbench writes "
                f"{wanted} of its own; remove it, or choose another folder"
            )


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuses to begin what would end for lack of room.

    Args:
        folder: where it would be written; it need not exist.
        needed: bytes.
        what: it is, for the message.

    Raises:
        ResourceError: less is free.
    """
    free = free_disk(folder)
    if free < needed:
        raise ResourceError(
            f"{folder} has {free:,} bytes free, and {what} need {needed:,}; make room, or choose "
            f"another place with paths.outputs"
        )


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left half written; call it only where nobody else writes."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes left below a folder into which others may be writing now."""
    for temporary in folder.rglob("*.tmp"):
        with suppress(OSError):  # gone already, or not ours
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or where it would be made."""
    return shutil.disk_usage(_existing(folder)).free


def _describe_room(folder: Path) -> str:
    found = os.statvfs(_existing(folder))
    if found.f_files and not found.f_favail:
        return "the file system has no inodes left: it cannot hold one more file, and none is free"
    return f"{free_disk(folder):,} bytes are free"


def _existing(folder: Path) -> Path:
    places = (folder, *folder.absolute().parents)
    return next(place for place in places if os.path.isdir(place))
