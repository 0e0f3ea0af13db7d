"""Digest of the files of a dataset, cached for unchanged files."""

import hashlib
import heapq
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdbench.data.base import Source
from kdbench.digest import file_digest
from kdbench.files import write_cache

log = logging.getLogger(__name__)

# Hashing all of ImageNet would delay training by many minutes.
_SAMPLE_ABOVE = 5_000_000_000  # bytes
_SAMPLE_SIZE = 1_000  # files


def identify(kind: str, files: Iterable[Path], cache: Path, reader: str) -> Source:
    """The source of a dataset, digest included.

    Args:
        kind: layout of the files.
        files: all of them, in any order.
        cache: folder of cached file digests.
        reader: name and version of the code that turns the files into images and labels, with
            every parameter that changes the result; part of the digest.
    """
    found = tuple(sorted(set(files)))
    content, is_sampled = digest_files(found, cache) if found else ("", False)
    digest = hashlib.sha256(f"{reader}\0{kind}\0{content}".encode()).hexdigest()
    return Source(f"{kind} (content sampled)" if is_sampled else kind, found, digest)


def digest_files(files: Iterable[Path], cache: Path) -> tuple[str, bool]:
    """SHA-256 over name, size and content of files, independent of the folder that they are in.

    Above 5 GB it covers the names and sizes of all files, but the content of only 1,000 of them,
    always the same.

    Args:
        files: at least one.
        cache: file digests are kept in ``cache/digests`` and reused while a file's size and
            modification time stay the same.

    Returns:
        The digest as 64 hex digits, and whether the content was sampled.
    """
    named = _relative_names(files)
    stats = {name: path.stat() for name, path in named.items()}
    is_sampled = sum(stat.st_size for stat in stats.values()) > _SAMPLE_ABOVE
    chosen = heapq.nsmallest(_SAMPLE_SIZE, named, key=_sha256) if is_sampled else list(named)
    contents = _content_digests({name: named[name] for name in chosen}, stats, cache)
    lines = [f"{name}\0{stats[name].st_size}\0{contents.get(name, '')}" for name in sorted(named)]
    return _sha256("\n".join(lines)), is_sampled


def _relative_names(files: Iterable[Path]) -> dict[str, Path]:
    absolute = [path.absolute() for path in files]
    top = os.path.commonpath([path.parent for path in absolute])
    return {path.relative_to(top).as_posix(): path for path in absolute}


def _content_digests(
    named: Mapping[str, Path], stats: Mapping[str, os.stat_result], cache: Path
) -> dict[str, str]:
    file = cache / "digests" / f"{_sha256(chr(10).join(map(str, named.values())))}.json"
    known = _read_cached(file)
    digests, fresh = {}, {}
    for name, path in named.items():
        stamp = [stats[name].st_size, stats[name].st_mtime_ns]
        cached = known.get(name, [])
        digests[name] = cached[2] if cached[:2] == stamp else file_digest(path)
        fresh[name] = [*stamp, digests[name]]
    if fresh != known:
        write_cache(file, _pack(fresh))
    return digests


def _pack(entries: Mapping[str, list]) -> bytes:
    """With a digest of itself: one wrong digit would turn the files into another dataset."""
    text = json.dumps(entries, sort_keys=True)
    return json.dumps({"sha256": _sha256(text), "files": entries}).encode()


def _read_cached(path: Path) -> dict[str, list]:
    """The cached digests; empty if there are none or the file is damaged."""
    try:
        cached = json.loads(path.read_bytes())
        entries = cached["files"]
        is_valid = cached["sha256"] == _sha256(json.dumps(entries, sort_keys=True))
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError):
        is_valid = False
    if not is_valid:
        log.warning("%s is damaged or from an older version; recomputing the digests", path)
        return {}
    return entries


def _sha256(text: str) -> str:
    # surrogateescape: the path to the data need not be UTF-8
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
