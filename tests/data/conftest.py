from importlib import import_module

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdbench.data.base import Arrays
from tests.helpers.paths import ROOT

CONF = ROOT / "conf"


@pytest.fixture
def make_dataset():
    """The dataset of a file in conf/dataset, with some of its keys replaced."""

    def make(stem, view="fixmatch", **changes):
        strong = _construct(CONF / "view" / f"{view}.yaml")
        changes = {"views": {"strong": strong}, **changes}
        return _construct(CONF / "dataset" / f"{stem}.yaml", **changes)

    return make


def _construct(file, **changes):
    keys = {**yaml.safe_load(file.read_text()), **changes}
    keys.pop("defaults", None)  # what Hydra composes beside it
    module, _, owner = keys.pop("_target_").rpartition(".")
    return getattr(import_module(module), owner)(**keys)


@pytest.fixture
def open_dataset(tmp_path):
    """Opens a dataset on the CPU with a cache of its own."""

    def open_it(dataset, data_seed=7, protocol="paper"):
        return dataset.open(
            cache=tmp_path / "cache",
            device=torch.device("cpu"),
            data_seed=data_seed,
            protocol=protocol,
        )

    return open_it


@pytest.fixture
def pictures():
    """20 color images 32x32 with labels 0..9, twice each."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    return Arrays(pixels, np.arange(20) % 10)


@pytest.fixture
def save_folders():
    """Writes pictures as class folders."""

    def save(folder, arrays, suffix=".png"):
        for number, (image, target) in enumerate(zip(*arrays, strict=True)):
            path = folder / f"class{target}" / f"{number:03d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)

    return save
