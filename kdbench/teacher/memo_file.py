"""A memo in a memory-mapped file, for all runs of a machine, now and later.

Layout: a header of one page with the identity as JSON; then ``num_rows`` rows, each a 64-bit check
value and K little-endian float32 logits. A row of zeros is one that nobody has asked for yet.

No lock is held while the file is in use. A check value is computed from the logits and from the
number of their row, so a row that was damaged on disk, half written when a process died, or mixed
from two writers does not match; it counts as unknown and is written again.
"""

import errno
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from kdbench.data.randomness import hash64
from kdbench.errors import ResourceError
from kdbench.files import free_disk
from kdbench.teacher.memo import MemoIdentity

FORMAT = 1  # raised when the layout changes
HEADER_BYTES = 4096

log = logging.getLogger(__name__)


class FileStore:
    """A store that several processes may use at once: see ``kdbench.teacher.memo.Store``.

    A file that is not sound is set aside with a warning, and a fresh one takes its place.

    Args:
        folder: where memos are kept; made if its parent exists.
        identity: names the file.
        device: where logits are wanted.

    Attributes:
        damaged: rows so far that did not match their check value.

    Raises:
        ResourceError: there is no room, or the folder cannot be written.
    """

    mode = "disk"

    def __init__(self, folder: Path, identity: MemoIdentity, device: torch.device) -> None:
        classes = identity.num_classes
        self._row = np.dtype([("check", "<u8"), ("logits", "<f4", (classes,))])
        self._factors = hash64(np.arange(classes)) | np.uint64(1)
        self._device, self.damaged = device, 0
        self.path = folder / f"{identity.digest[:16]}.memo"
        self.place = str(self.path)
        self.num_bytes = HEADER_BYTES + identity.num_rows * self._row.itemsize
        try:
            folder.mkdir(exist_ok=True)
            # Only while it is opened: the others wait for the file that the first one makes.
            with FileLock(self.path.with_suffix(".lock")):
                _provide(self.path, _header(identity), self.num_bytes)
                shape = (identity.num_rows,)
                self._table = np.memmap(self.path, self._row, "r+", HEADER_BYTES, shape)
        except OSError as error:
            raise ResourceError(
                f"the teacher memo {self.path} cannot be made: {error.strerror or error}; "
                f"{self.num_bytes:,} bytes are needed, {free_disk(folder.parent):,} are free "
                "there; make room, choose another place with paths.cache, or use teacher.memo=off"
            ) from error

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Store.read``."""
        numbers = rows.cpu().numpy()  # waits for the device
        found = self._table[numbers]  # a copy, which no other process changes any more
        logits = np.ascontiguousarray(found["logits"])
        missing = np.flatnonzero(self._check_values(numbers, logits) != found["check"])
        self._count_damage(found[missing])
        return self._to_device(logits), self._to_device(missing)

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """See ``Store.write``."""
        numbers = rows.cpu().numpy()
        content = np.empty(len(numbers), self._row)
        content["logits"] = logits.cpu().numpy()
        content["check"] = self._check_values(numbers, np.ascontiguousarray(content["logits"]))
        self._table[numbers] = content

    def _check_values(self, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """[B] uint64 of logits [B, K]. Odd factors: no change of a single logit goes unnoticed."""
        words = logits.view("<u4").astype(np.uint64)
        return hash64(rows, words @ self._factors)

    def _count_damage(self, unknown: np.ndarray) -> None:
        count = int(((unknown["check"] != 0) | unknown["logits"].any(axis=1)).sum())
        if count and not self.damaged:
            log.warning(
                "%s: remembered answers do not match their check values (damaged on disk, or half "
                "written by another process); these and others like them are computed again",
                self.path,
            )
        self.damaged += count

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _header(identity: MemoIdentity) -> bytes:
    content = {
        "format": FORMAT,
        "sha256": identity.digest,  # of the next entry
        "identity": json.loads(identity.text),
    }
    return json.dumps(content, indent=1).encode().ljust(HEADER_BYTES)


def _provide(path: Path, header: bytes, size: int) -> None:
    """Sees to it that there is a sound file; call it by one process at a time."""
    problem = _find_problem(path, header, size) if path.exists() else None
    if problem is not None:
        aside = path.replace(path.with_suffix(".damaged"))
        log.warning(
            "%s %s; it is now %s, which may be removed, and a fresh memo takes its place",
            path,
            problem,
            aside.name,
        )
    if not path.exists():
        _create(path, header, size)


def _find_problem(path: Path, header: bytes, size: int) -> str | None:
    found = path.stat().st_size
    if found != size:
        return f"has {found:,} bytes instead of {size:,}"
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != header:
            return "has a header that is damaged or of another memo"
    return None


def _create(path: Path, header: bytes, size: int) -> None:
    temporary = path.with_suffix(".tmp")  # what a killed process left is overwritten
    try:
        with temporary.open("wb") as file:
            if size > free_disk(path.parent):  # else others would find the disk full for a while
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # All of it now: a write into a mapped file that finds the disk full kills the process.
            os.posix_fallocate(file.fileno(), 0, size)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
