"""A memo in a memory-mapped file, shared by all runs on a machine.

Layout: a one-page header with the identity as JSON, then ``num_rows`` rows, each a 64-bit checksum
and K little-endian float32 logits. A row of zeros has not been written yet.

The file is used without a lock. The checksum covers the logits and the row number, so a row that
was corrupted on disk, partly written when a process died, or mixed from two writers fails the
check; it counts as missing and is written again.
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
    """A store for several processes at once; see ``kdbench.teacher.memo.Store``.

    A corrupt file is renamed with a warning and replaced by a new one.

    Args:
        folder: where memos are stored; created if its parent exists.
        identity: determines the file name.
        device: where logits are returned.

    Attributes:
        damaged: rows so far whose checksum did not match.

    Raises:
        ResourceError: no space left, or the folder is not writable.
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
            # Only while opening: the other processes wait for the first one to create the file.
            with FileLock(self.path.with_suffix(".lock")):
                _provide(self.path, _header(identity), self.num_bytes)
                shape = (identity.num_rows,)
                self._table = np.memmap(self.path, self._row, "r+", HEADER_BYTES, shape)
        except OSError as error:
            raise ResourceError(
                f"cannot create the teacher memo {self.path}: {error.strerror or error}; "
                f"{self.num_bytes:,} bytes needed, {free_disk(folder.parent):,} free; free some "
                "space, set paths.cache to another folder, or use teacher.memo=off"
            ) from error

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Store.read``."""
        numbers = rows.cpu().numpy()  # synchronizes
        found = self._table[numbers]  # a copy, which other processes cannot change
        logits = np.ascontiguousarray(found["logits"])
        missing = np.flatnonzero(self._checksums(numbers, logits) != found["check"])
        self._count_damage(found[missing])
        return self._to_device(logits), self._to_device(missing)

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """See ``Store.write``."""
        numbers = rows.cpu().numpy()
        content = np.empty(len(numbers), self._row)
        content["logits"] = logits.cpu().numpy()
        content["check"] = self._checksums(numbers, np.ascontiguousarray(content["logits"]))
        self._table[numbers] = content

    def _checksums(self, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """[B] uint64 of logits [B, K]. Odd factors detect any change of a single logit."""
        words = logits.view("<u4").astype(np.uint64)
        return hash64(rows, words @ self._factors)

    def _count_damage(self, missing: np.ndarray) -> None:
        count = int(((missing["check"] != 0) | missing["logits"].any(axis=1)).sum())
        if count and not self.damaged:
            log.warning(
                "%s: cached logits do not match their checksums (corrupted on disk, or partly "
                "written by another process); they are recomputed",
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
    """Ensures that a valid file exists; the caller holds the lock."""
    problem = _find_problem(path, header, size) if path.exists() else None
    if problem is not None:
        aside = path.replace(path.with_suffix(".damaged"))
        log.warning(
            "%s %s; renamed to %s, which can be deleted, and replaced by a new memo",
            path,
            problem,
            aside.name,
        )
    if not path.exists():
        _create(path, header, size)


def _find_problem(path: Path, header: bytes, size: int) -> str | None:
    found = path.stat().st_size
    if found != size:
        return f"has {found:,} bytes, expected {size:,}"
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != header:
            return "has a header that is damaged or belongs to another memo"
    return None


def _create(path: Path, header: bytes, size: int) -> None:
    temporary = path.with_suffix(".tmp")  # overwrites leftovers of a killed process
    try:
        with temporary.open("wb") as file:
            if size > free_disk(path.parent):  # do not fill the disk for others, even briefly
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # Allocate everything now: writing to a mapped file on a full disk kills the process.
            os.posix_fallocate(file.fileno(), 0, size)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
