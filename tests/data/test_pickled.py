import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from kdbench.data.cifar import CIFAR100
from kdbench.data.pickled import find_pickled, unpickle
from kdbench.errors import DataError


def _md5(payload):
    return hashlib.md5(payload).hexdigest()


class _Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _as_python_2(array):
    """The pickle of an array as Python 2 wrote it, which is how CIFAR was published."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    rebuild = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    )
    return (
        b"\x80\x02"
        + rebuild
        + b"(K\x01"
        + shape
        + dtype
        + b"I00\n"
        + text(array.tobytes())
        + b"tb."
    )


def test_reads_what_python_2_wrote():
    array = np.arange(24, dtype=np.uint8).reshape(2, 12) + 200
    payload = _as_python_2(array)
    np.testing.assert_array_equal(unpickle(payload, _md5(payload), "file"), array)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_wrong_digest_is_refused_before_unpickling(tmp_path, protocol):
    payload = pickle.dumps(_Malicious(tmp_path / "marker"), protocol)
    with pytest.raises(DataError, match=f"x has the MD5 digest {_md5(payload)} .* abc"):
        unpickle(payload, "abc", "x")
    assert not (tmp_path / "marker").exists()


def test_only_arrays_are_unpickled_even_with_the_right_digest(tmp_path):
    payload = pickle.dumps({"data": _Malicious(tmp_path / "marker")})
    with pytest.raises(DataError, match=r"x is not a pickle of arrays: it refers to .*mkdir"):
        unpickle(payload, _md5(payload), "x")
    assert not (tmp_path / "marker").exists()


def test_a_pickle_cannot_reach_the_rest_of_numpy():
    payload = b"cnumpy\nload\n."
    with pytest.raises(DataError, match=r"numpy\.load"):
        unpickle(payload, _md5(payload), "x")


@pytest.fixture
def published(tmp_path, pictures):
    """A tiny CIFAR-100 in the published layout in tmp_path, and the table of its digests."""
    planes = pictures.images.transpose(0, 3, 1, 2).reshape(20, -1)
    batch = {"data": planes, "fine_labels": pictures.targets.tolist(), "coarse_labels": [0] * 20}
    names = {"fine_label_names": [f"name{i}" for i in range(10)]}
    payloads = {
        name: pickle.dumps(value, 4)
        for name, value in {"train": batch, "test": batch, "meta": names}.items()
    }
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, payload in payloads.items():
        (folder / name).write_bytes(payload)
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    digests = {name: _md5(payload) for name, payload in payloads.items()}
    digests[archive.name] = _md5(archive.read_bytes())
    return replace(CIFAR100.published, md5=digests)


def _assert_content(content, pictures):
    for split in (content.train, content.test):
        np.testing.assert_array_equal(split.images, pictures.images)
        np.testing.assert_array_equal(split.targets, pictures.targets)
        assert split.targets.dtype == np.int64
    assert content.class_names == tuple(f"name{i}" for i in range(10))


@pytest.mark.parametrize("place", ["", "cifar-100-python"])
def test_reads_the_folder(tmp_path, pictures, published, place):
    layout = find_pickled(tmp_path / place, published)
    assert layout.kind == "python-batches"
    assert {path.name for path in layout.files} == {"train", "test", "meta"}
    _assert_content(layout.read(), pictures)


def _remove_folder(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_reads_the_archive_in_memory(tmp_path, pictures, published):
    _remove_folder(tmp_path / "cifar-100-python")
    layout = find_pickled(tmp_path, published)
    assert layout.kind == "python-archive"
    _assert_content(layout.read(), pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-100-python.tar.gz"]


def test_a_truncated_archive_is_refused_and_kept(tmp_path, published):
    _remove_folder(tmp_path / "cifar-100-python")
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(DataError, match=f"{archive} has the MD5 digest"):
        find_pickled(tmp_path, published).read()
    assert archive.exists()


def test_an_archive_without_a_member_is_refused(tmp_path, published):
    _remove_folder(tmp_path / "cifar-100-python")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../train"), io.BytesIO())
    digests = {**published.md5, archive.name: _md5(archive.read_bytes())}
    with pytest.raises(DataError, match="has no file cifar-100-python/train"):
        find_pickled(tmp_path, replace(published, md5=digests)).read()


def test_an_incomplete_folder_is_named(tmp_path, published):
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(DataError, match="cifar-100-python is missing meta"):
        find_pickled(tmp_path, published)


def test_a_replaced_batch_is_refused_before_unpickling(tmp_path, published):
    batch = tmp_path / "cifar-100-python" / "train"
    batch.write_bytes(pickle.dumps(_Malicious(tmp_path / "marker")))
    with pytest.raises(DataError, match="cifar-100-python: train has the MD5 digest"):
        find_pickled(tmp_path, published).read()
    assert not (tmp_path / "marker").exists()
