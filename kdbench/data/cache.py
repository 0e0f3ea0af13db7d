"""Cache of decoded datasets on disk: a dataset is parsed and decoded once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from kdbench.data.base import Arrays, Content
from kdbench.files import write_cache

log = logging.getLogger(__name__)


def load_or_build(path: Path, build: Callable[[], Content]) -> Content:
    """Loads a cache file; builds and writes it if it is missing or damaged.

    Args:
        path: a safetensors file whose name contains the digest of the source. It also holds a
            digest of its own content, so that a damaged file is detected and set aside.
        build: reads the dataset from its source.
    """
    if path.exists():
        try:
            return _load(path)
        except (SafetensorError, KeyError, ValueError) as error:
            aside = path.replace(path.with_name(f"{path.name}.damaged"))
            log.warning("%s is damaged (%s); renamed to %s, rebuilding", path, error, aside.name)
    content = build()
    write_cache(path, _pack(content))
    return content


def _pack(content: Content) -> bytes:
    arrays = {
        "train.images": content.train.images,
        "train.targets": content.train.targets,
        "test.images": content.test.images,
        "test.targets": content.test.targets,
    }
    # safetensors writes the buffer as is and ignores strides
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    names = json.dumps(content.class_names)
    metadata = {"class_names": names, "sha256": _digest(arrays, names)}
    return safetensors.numpy.save(arrays, metadata)


def _load(path: Path) -> Content:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(arrays, metadata["class_names"]) != metadata["sha256"]:
        raise ValueError("its content does not match its digest")
    return Content(
        Arrays(arrays["train.images"], arrays["train.targets"]),
        Arrays(arrays["test.images"], arrays["test.targets"]),
        tuple(json.loads(metadata["class_names"])),
    )


def _digest(arrays: Mapping[str, np.ndarray], class_names: str) -> str:
    digest = hashlib.sha256(class_names.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()
