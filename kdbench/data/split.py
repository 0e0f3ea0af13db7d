"""Splits that stay the same for ever: who is held out depends on the images alone.

No generator and no seed of a run is involved, so neither a new version of numpy nor another order
of the files moves a sample from one side to the other.
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
    """Stands for the content where reading all of it takes too long: class and file name."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()


def held_out(keys: Sequence[bytes], targets: np.ndarray, fraction: float) -> np.ndarray:
    """Marks the same fraction of every class.

    Args:
        keys: N digests of the samples' content; of each class the smallest are held out.
        targets: [N] labels.
        fraction: part of each class, rounded to a whole number of samples; 0 < fraction < 1.

    Returns:
        [N] bool, True for samples that are held out.
    """
    mask = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = sorted(np.flatnonzero(targets == label).tolist(), key=keys.__getitem__)
        mask[members[: round(fraction * len(members))]] = True
    return mask


def split_arrays(arrays: Arrays, fraction: float) -> tuple[Arrays, Arrays]:
    """(rest, held out) of a dataset that comes without a test split."""
    mask = held_out(image_keys(arrays.images), arrays.targets, fraction)
    return (
        Arrays(arrays.images[~mask], arrays.targets[~mask]),
        Arrays(arrays.images[mask], arrays.targets[mask]),
    )
