import logging

import numpy as np
import pytest

from kdbench.data.base import Content
from kdbench.data.cache import load_or_build


@pytest.fixture
def content(pictures):
    return Content(pictures, pictures, tuple("abcdefghij"))


def _refuse():
    raise AssertionError("read from its source although it is cached")


def _assert_equal(first, second):
    assert first.class_names == second.class_names
    for a, b in zip([*first.train, *first.test], [*second.train, *second.test], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_built_once(tmp_path, content):
    path = tmp_path / "datasets" / "x.safetensors"
    _assert_equal(load_or_build(path, lambda: content), content)
    _assert_equal(load_or_build(path, _refuse), content)


def test_arrays_in_another_memory_order(tmp_path, content, pictures):
    turned = content._replace(train=pictures._replace(images=pictures.images.swapaxes(1, 2)))
    load_or_build(tmp_path / "x", lambda: turned)
    _assert_equal(load_or_build(tmp_path / "x", _refuse), turned)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "header", "foreign"])
def test_a_damaged_file_is_set_aside_and_rebuilt(tmp_path, content, caplog, damage):
    path = tmp_path / "x.safetensors"
    load_or_build(path, lambda: content)
    intact = path.read_bytes()
    middle = len(intact) // 2
    damaged = {
        "flip": intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :],
        "truncate": intact[:middle],
        "empty": b"",
        "header": intact.replace(b"[20,32,32,3]", b"[20,32,3,32]"),
        "foreign": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
    }[damage]
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        _assert_equal(load_or_build(path, lambda: content), content)
    assert "x.safetensors is damaged" in caplog.text
    assert (tmp_path / "x.safetensors.damaged").read_bytes() == damaged
    _assert_equal(load_or_build(path, _refuse), content)
