"""Writing files that must survive a crash: everything that kdbench keeps goes through here."""

import os
import secrets
import shutil
import stat
from contextlib import suppress
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
            f"needed, {free_disk(path.parent):,} are free there; make room, or choose another "
            "place with paths.outputs or paths.cache"
        ) from error
    finally:
        with suppress(OSError):  # after the rename there is nothing left to remove
            temporary.unlink()


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


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or where it would be made."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(existing).free
