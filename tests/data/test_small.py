import logging

import numpy as np
import pytest

from kdbench.data.base import Arrays
from kdbench.data.fake import Fake
from kdbench.errors import DataError


@pytest.fixture
def open_broken(make_dataset, open_dataset, monkeypatch):
    """Opens a dataset after a function has changed its content."""

    def open_it(change, **keys):
        read = Fake.read
        monkeypatch.setattr(Fake, "read", lambda self: change(read(self)))
        return open_dataset(make_dataset("fake", train_size=20, test_size=10, **keys))

    return open_it


@pytest.mark.parametrize(("label", "split"), [(10, "train"), (-1, "train"), (10, "test")])
def test_a_label_out_of_range_is_named(open_broken, label, split):
    def change(content):
        getattr(content, split).targets[7] = label
        return content

    with pytest.raises(DataError, match=rf"label {label} of {split} sample 7 .* 0\.\.9"):
        open_broken(change)


def test_an_empty_split_is_refused(open_broken):
    empty = Arrays(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="the test split has 0 images"):
        open_broken(lambda content: content._replace(test=empty))


def test_images_and_labels_must_be_equal_in_number(open_broken):
    def change(content):
        return content._replace(train=Arrays(content.train.images, content.train.targets[1:]))

    with pytest.raises(DataError, match="20 images and 19 labels"):
        open_broken(change)


def test_another_image_size_is_refused(open_broken):
    def change(content):
        return content._replace(train=Arrays(content.train.images[:, ::2], content.train.targets))

    with pytest.raises(DataError, match=r"\(16, 32, 3\).*\(32, 32, 3\)"):
        open_broken(change)


def test_another_number_of_classes_is_refused(open_broken):
    with pytest.raises(DataError, match=r"3 classes.*dataset\.num_classes=10"):
        open_broken(lambda content: content._replace(class_names=("a", "b", "c")))


def test_the_source_is_read_once(make_dataset, open_dataset, monkeypatch):
    dataset = make_dataset("fake")
    first = open_dataset(dataset)
    monkeypatch.setattr(Fake, "read", None)
    again = open_dataset(dataset)
    assert again.digest == first.digest == dataset.source(None).digest
    assert again.class_names == first.class_names


def test_a_damaged_cache_is_rebuilt(make_dataset, open_dataset, tmp_path, caplog):
    dataset = make_dataset("fake", train_size=20)
    open_dataset(dataset)
    (path,) = (tmp_path / "cache" / "datasets").iterdir()
    assert path.name == f"fake-{dataset.source(None).digest[:12]}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        data = open_dataset(dataset)
    assert f"{path} is damaged" in caplog.text
    assert data.num_train == 20
