"""Crash-safe file writing, for everything that kdbench keeps."""

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

# Names that a run writes in its folder.
_FOLDERS = (".hydra", "checkpoint", "wandb", "evaluation", "export")
_FILES = (
    *("run.lock", "run.owner.json", "train.log", "record.json", "repetition.json"),
    *("metrics.csv", "timings.csv", "student.safetensors"),
)
_SAVED = ("config.yaml", "hydra.yaml", "overrides.yaml")
_NOT_PERMITTED = {errno.EROFS, errno.EACCES, errno.EPERM}
ABANDONED = 3600.0  # seconds after which an unfinished temporary file counts as abandoned

log = logging.getLogger(__name__)


def write_atomic(path: Path, payload: bytes) -> None:
    """Replaces a file atomically: whatever happens, it has the old content or the new.

    Args:
        path: the file; missing parent folders are created.
        payload: its whole new content.

    Raises:
        ResourceError: no space, no permission, a damaged disk; the old file is unchanged.
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
            f"needed, {_describe_room(path.parent)} there; free some space, or choose another "
            "folder with paths.outputs or paths.cache"
        ) from error
    finally:
        with suppress(OSError):  # gone after the rename
            temporary.unlink()


def write_cache(path: Path, payload: bytes) -> None:
    """Writes a file that can be recomputed: without write permission, only warns.

    Raises:
        ResourceError: no space, or a damaged disk.
    """
    try:
        write_atomic(path, payload)
    except ResourceError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NOT_PERMITTED:
            raise
        log.warning("%s is not cached and will be recomputed: %s", path, error.__cause__)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns every OSError within this context into an error that names the file.

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
    """Creates a folder for kdbench to write in, with its parents.

    Raises:
        ResourceError: a file or link is in its place, or it is not writable.
    """
    with naming(folder):
        obstacle = _find_obstacle(folder)
        if obstacle:
            raise ResourceError(
                f"{obstacle}, but {folder} must be a folder; move it away, or choose another "
                f"folder with paths.outputs"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{folder} is not writable (permissions, or a read-only file system); choose "
                f"another folder with paths.outputs"
            )


def _find_obstacle(folder: Path) -> str:
    """What is in the place of a folder, in words; empty if it exists or can be created."""
    for place in (folder, *folder.absolute().parents):
        if os.path.isdir(place):
            return ""
        if os.path.islink(place):
            return f"{place} is a link to {os.readlink(place)}, which is not a folder"
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
    """Refuses a run folder with links, or with folders in place of files, where kdbench writes.

    Whoever can create a link there could have any file of the user overwritten. The folder itself
    may be behind a link: that is the user's choice.

    Args:
        folder: of a run.
        inside: further folders in it that are written.

    Raises:
        ResourceError: names the obstacle.
    """
    folders = [*(folder / name for name in _FOLDERS), *inside]
    files = [folder / name for name in (*_FILES, *(f".hydra/{name}" for name in _SAVED))]
    for path in (*folders, *files):
        try:
            mode = path.lstat().st_mode
        except OSError:  # it does not exist
            continue
        wanted = "a folder" if path in folders else "a file"
        if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
            found = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}
            raise ResourceError(
                f"{path} is {found.get(stat.S_IFMT(mode), 'something else')}, where kdbench needs "
                f"{wanted}; remove it, or choose another folder"
            )


def require_room(folder: Path, needed: int, what: str) -> None:
    """Checks for enough free disk space.

    Args:
        folder: to be written in; it need not exist.
        needed: bytes.
        what: needs it, for the message; in the plural.

    Raises:
        ResourceError: there is less free space.
    """
    free = free_disk(folder)
    if free < needed:
        raise ResourceError(
            f"{folder} has {free:,} bytes free, but {what} need {needed:,}; free some space, or "
            f"choose another folder with paths.outputs"
        )


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of killed processes; only where no other process writes."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()


def remove_abandoned(folder: Path) -> None:
    """Removes old temporary files of killed processes below a folder that others may be using."""
    for temporary in folder.rglob("*.tmp"):
        with suppress(OSError):  # already gone, or not ours
            if time.time() - temporary.stat().st_mtime > ABANDONED:
                temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_disk(folder: Path) -> int:
    """Free bytes on the file system of a folder, which need not exist."""
    return shutil.disk_usage(_existing(folder)).free


def _describe_room(folder: Path) -> str:
    found = os.statvfs(_existing(folder))
    if found.f_files and not found.f_favail:
        return "the file system has no inodes left"
    return f"{free_disk(folder):,} bytes are free"


def _existing(folder: Path) -> Path:
    places = (folder, *folder.absolute().parents)
    return next(place for place in places if os.path.isdir(place))
