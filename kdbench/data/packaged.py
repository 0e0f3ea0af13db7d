"""Data files of installed packages, found without the second or more that an import takes."""

import importlib.util
from pathlib import Path

import numpy as np

from kdbench.errors import DataError


def packaged_file(package: str, inside: str) -> Path:
    """Path of a data file of a package; DataError if it is missing."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / inside
        if path.is_file():
            return path
    raise DataError(f"the package {package} has no file {inside}; pip install {package}")


def read_rows(path: Path) -> np.ndarray:
    """Reads a (compressed) CSV file of numbers 0..255: [N, columns] uint8."""
    return np.loadtxt(path, delimiter=",", dtype=np.uint8)
