"""Datasets and pictures for tests of the whole, as in tests/data."""

from tests.data.conftest import make_dataset, open_dataset, pictures, save_folders

__all__ = ["make_dataset", "open_dataset", "pictures", "save_folders"]
