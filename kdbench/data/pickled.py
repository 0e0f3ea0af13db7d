"""CIFAR as its authors publish it and torchvision downloads it: pickles, in a folder or an archive.

Unpickling can run arbitrary code. So there are two safeguards: each file must have its published
digest before any of it is unpickled, and the unpickler allows nothing but arrays.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.data.base import Arrays, Content
from kdbench.data.layout import Layout
from kdbench.errors import DataError

# What the pickle of an array needs, under the names of numpy 1 and 2. The function that rebuilds
# arrays is private, but every array refers to it.
_REBUILD = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy._core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@dataclass(frozen=True)
class Release:
    """Names and digests of one published dataset.

    Attributes:
        url: of the archive.
        archive: name of the archive.
        folder: the folder in it.
        md5: published MD5 digest (hex) of the archive and of each file in the folder.
        train: files of the train split.
        test: files of the test split.
        meta: file with the class names.
        labels: key of the labels in a batch.
        names: key of the class names in ``meta``.
    """

    url: str
    archive: str
    folder: str
    md5: Mapping[str, str]
    train: Sequence[str]
    test: Sequence[str]
    meta: str
    labels: str
    names: str

    @property
    def members(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, *self.test, self.meta)


def find_pickled(place: Path, published: Release) -> Layout | None:
    """The extracted folder in ``place``, ``place`` itself if it is that folder, or the archive.

    Raises:
        DataError: the folder exists but lacks files.
    """
    folder, archive = place / published.folder, place / published.archive
    if folder.is_dir():
        missing = [member for member in published.members if not (folder / member).is_file()]
        if missing:
            raise DataError(
                f"{folder} is missing {', '.join(missing)}; extract {published.archive} again"
            )
        return _folder_layout(folder, published)
    if all((place / member).is_file() for member in published.members):
        return _folder_layout(place, published)
    if archive.is_file():
        return Layout("python-archive", (archive,), lambda: _read_archive(archive, published))
    return None


def _folder_layout(folder: Path, published: Release) -> Layout:
    files = tuple(folder / member for member in published.members)
    return Layout("python-batches", files, lambda: _read(folder, published))


def unpickle(payload: bytes, md5: str, where: str) -> dict[str, Any]:
    """Reads a pickled dictionary of arrays, numbers and text.

    Args:
        payload: bytes of the file, so that what is checked is what is unpickled.
        md5: published digest (hex).
        where: path, for the message.

    Raises:
        DataError: wrong digest, or a pickle of more than arrays.
    """
    _require_digest(payload, md5, where)
    try:
        return _ArraysOnly(io.BytesIO(payload), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError(f"{where} is not a pickle of arrays: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module_name}.{global_name}")
        return _ALLOWED[module_name, global_name]


def _read(folder: Path, published: Release) -> Content:
    return _assemble(lambda member: (folder / member).read_bytes(), str(folder), published)


def _read_archive(archive: Path, published: Release) -> Content:
    payload = archive.read_bytes()
    _require_digest(payload, published.md5[archive.name], str(archive))
    # Members are read in memory, so an archive cannot write outside its folder.
    with tarfile.open(fileobj=io.BytesIO(payload)) as tar:
        members = {
            member: _member_bytes(tar, f"{published.folder}/{member}", archive)
            for member in published.members
        }
    return _assemble(members.__getitem__, str(archive), published)


def _member_bytes(tar: tarfile.TarFile, name: str, archive: Path) -> bytes:
    file = tar.extractfile(name) if name in tar.getnames() else None
    if file is None:
        raise DataError(f"{archive} has no file {name}; download it again")
    return file.read()


def _assemble(fetch: Callable[[str], bytes], where: str, published: Release) -> Content:
    def load(member: str) -> dict[str, Any]:
        return unpickle(fetch(member), published.md5[member], f"{where}: {member}")

    def join(members: Sequence[str]) -> Arrays:
        batches = [load(member) for member in members]
        planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch[published.labels]]
        images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        return Arrays(images, np.array(labels, dtype=np.int64))

    names = tuple(load(published.meta)[published.names])
    return Content(join(published.train), join(published.test), names)


def _require_digest(payload: bytes, md5: str, where: str) -> None:
    found = hashlib.md5(payload, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{where} has the MD5 digest {found} instead of the published {md5}: it is damaged or "
            "not the published file, and was not unpickled; download it again"
        )
