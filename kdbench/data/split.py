"""Fixed splits: which samples are held out depends on the images alone.

No generator and no run seed is involved, so neither a new numpy version nor another file order
moves a sample to the other split.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.data.base import Arrays


def image_keys(images: np.ndarray) -> list[bytes]:
    """SHA-256 of the pixels of each image of [N, H, W, C]."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def name_key(file: Path) -> bytes:
    """SHA-256 of class and file name, for datasets too large to hash their content."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()


def held_out(keys: Sequence[bytes], targets: np.ndarray, fraction: float) -> np.ndarray:
    """Holds out the same fraction of every class.

    Args:
        keys: N digests of the samples; those with the smallest of each class are held out.
        targets: [N] labels.
        fraction: of each class, rounded to a whole number of samples; 0 < fraction < 1.

    Returns:
        [N] bool, True for held-out samples.
    """
    mask = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = sorted(np.flatnonzero(targets == label).tolist(), key=keys.__getitem__)
        mask[members[: round(fraction * len(members))]] = True
    return mask


def split_arrays(arrays: Arrays, fraction: float) -> tuple[Arrays, Arrays]:
    """Splits a dataset without a test split into (rest, held out)."""
    mask = held_out(image_keys(arrays.images), arrays.targets, fraction)
    return (
        Arrays(arrays.images[~mask], arrays.targets[~mask]),
        Arrays(arrays.images[mask], arrays.targets[mask]),
    )
