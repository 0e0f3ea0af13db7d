import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from PIL import Image

from kdbench.data.cifar import CIFAR10, CIFAR100
from kdbench.errors import DataError

NAMES = tuple(f"name{i}" for i in range(10))


@pytest.mark.parametrize("ours", [CIFAR10, CIFAR100])
def test_names_and_digests_are_torchvisions(ours):
    theirs = getattr(torchvision.datasets, ours.__name__)
    published = ours.published
    assert (published.url, published.archive) == (theirs.url, theirs.filename)
    assert published.folder == theirs.base_folder
    assert [(name, published.md5[name]) for name in published.train] == [
        tuple(row) for row in theirs.train_list
    ]
    assert [(name, published.md5[name]) for name in published.test] == [
        tuple(row) for row in theirs.test_list
    ]
    assert published.md5[published.archive] == theirs.tgz_md5
    assert (published.meta, published.names) == (theirs.meta["filename"], theirs.meta["key"])
    assert published.md5[published.meta] == theirs.meta["md5"]


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _write_parquet(path, arrays, image="img", label="label", names=None):
    columns = {image: [_png(p) for p in arrays.images], label: arrays.targets}
    table = pa.table(columns)
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _assert_content(content, pictures, names):
    for split in (content.train, content.test):
        np.testing.assert_array_equal(split.images, pictures.images)
        np.testing.assert_array_equal(split.targets, pictures.targets)
        assert split.targets.dtype == np.int64
    assert content.class_names == names


@pytest.mark.parametrize("place", ["", "cifar10", "cifar10/data", "plain_text"])
def test_parquet_is_found_in_its_usual_folders(tmp_path, make_dataset, pictures, place):
    for split in ("train", "test"):
        _write_parquet(tmp_path / place / f"{split}-00000-of-00001.parquet", pictures, names=NAMES)
    dataset = make_dataset("cifar10", root=str(tmp_path))
    source = dataset.source(tmp_path)
    assert source.kind == "parquet"
    assert len(source.files) == 2
    _assert_content(dataset.read(), pictures, NAMES)


def test_parquet_in_several_files_with_names_beside(tmp_path, make_dataset, pictures):
    for number, rows in enumerate((slice(0, 12), slice(12, 20))):
        part = type(pictures)(pictures.images[rows], pictures.targets[rows])
        _write_parquet(tmp_path / f"train-{number}.parquet", part, "image", "fine_label")
    _write_parquet(tmp_path / "test.parquet", pictures, "image", "fine_label")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    dataset = make_dataset("cifar100", root=str(tmp_path))
    _assert_content(dataset.read(), pictures, NAMES)
    assert {path.name for path in dataset.source(tmp_path).files} == {
        "train-0.parquet",
        "train-1.parquet",
        "test.parquet",
        "classes.txt",
    }


def test_classes_without_names_are_numbered(tmp_path, make_dataset, pictures):
    for split in ("train", "test"):
        _write_parquet(tmp_path / f"{split}.parquet", pictures)
    names = make_dataset("cifar10", root=str(tmp_path)).read().class_names
    assert names == tuple("0123456789")


def test_the_wrong_column_is_named(tmp_path, make_dataset, pictures):
    for split in ("train", "test"):
        _write_parquet(tmp_path / f"{split}.parquet", pictures, label="fine_label")
    with pytest.raises(DataError, match=r"train\.parquet has the columns img, fine_label"):
        make_dataset("cifar10", root=str(tmp_path)).read()


def test_damaged_parquet_is_named(tmp_path, make_dataset, pictures):
    for split in ("train", "test"):
        _write_parquet(tmp_path / f"{split}.parquet", pictures)
    path = tmp_path / "test.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=rf"{path} is not readable as parquet"):
        make_dataset("cifar10", root=str(tmp_path)).read()


def test_a_damaged_row_is_named(tmp_path, make_dataset, pictures):
    rows = [_png(pixels) for pixels in pictures.images]
    rows[3] = {"bytes": b"no image", "path": None}
    for split in ("train", "test"):
        table = pa.table({"img": rows, "label": pictures.targets})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"train\.parquet row 3 cannot be decoded"):
        make_dataset("cifar10", root=str(tmp_path)).read()


def test_empty_parquet_is_refused(tmp_path, make_dataset, open_dataset, pictures):
    empty = type(pictures)(pictures.images[:0], pictures.targets[:0])
    _write_parquet(tmp_path / "train.parquet", pictures, names=NAMES)
    columns = pq.read_schema(tmp_path / "train.parquet")
    pq.write_table(columns.empty_table(), tmp_path / "test.parquet")
    dataset = make_dataset("cifar10", root=str(tmp_path))
    assert len(dataset.read().test.images) == len(empty.images)
    with pytest.raises(DataError, match="the test split has 0 images"):
        open_dataset(dataset)


def test_class_folders(tmp_path, make_dataset, open_dataset, pictures, save_folders):
    for split in ("train", "test"):
        save_folders(tmp_path / "cifar10" / split, pictures)
    dataset = make_dataset("cifar10", root=str(tmp_path))
    assert dataset.source(tmp_path).kind == "class-folders"
    content = dataset.read()
    assert content.class_names == tuple(f"class{i}" for i in range(10))
    order = np.argsort(pictures.targets, kind="stable")
    np.testing.assert_array_equal(content.test.images, pictures.images[order])
    assert open_dataset(dataset).num_train == 20


def test_unpublished_pickles_are_refused(tmp_path, make_dataset):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in CIFAR10.published.members:
        (folder / name).write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match=r"batches\.meta has the MD5 digest"):
        make_dataset("cifar10", root=str(tmp_path)).read()


def test_the_named_folder_takes_precedence(tmp_path, make_dataset, pictures):
    for split in ("train", "test"):
        _write_parquet(tmp_path / f"{split}.parquet", pictures, label="other")
        _write_parquet(tmp_path / "cifar10" / f"{split}.parquet", pictures)
    _assert_content(
        make_dataset("cifar10", root=str(tmp_path)).read(), pictures, tuple("0123456789")
    )


def test_missing_data_says_where_and_how_to_get_it(tmp_path, make_dataset):
    with pytest.raises(DataError) as caught:
        make_dataset("cifar100", root=str(tmp_path)).source(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "cifar100") in message
    assert "dataset.download=true" in message
    assert f"curl --create-dirs --output-dir {tmp_path} -O {CIFAR100.published.url}" in message


def test_download_is_torchvisions_and_only_when_needed(
    tmp_path, make_dataset, monkeypatch, pictures
):
    fetched = []

    def fetch(url, root, filename, md5):
        fetched.append((url, root, filename, md5))
        for split in ("train", "test"):
            _write_parquet(tmp_path / f"{split}.parquet", pictures)

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fetch)
    published = CIFAR10.published
    for _ in range(2):
        make_dataset("cifar10", root=str(tmp_path), download=True).read()
    archive = published.archive
    assert fetched == [(published.url, str(tmp_path), archive, published.md5[archive])]


def test_a_failed_download_is_a_data_error(tmp_path, make_dataset, monkeypatch):
    def fail(*_):
        raise OSError("no route")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fail)
    with pytest.raises(DataError, match=r"could not download .* no route"):
        make_dataset("cifar10", root=str(tmp_path), download=True).source(tmp_path)


@pytest.mark.shared
def test_the_real_cifar100(shared, make_dataset, open_dataset, monkeypatch):
    dataset = make_dataset("cifar100", root=str(shared / "data"))
    content = dataset.read()
    assert content.train.images.shape == (50_000, 32, 32, 3)
    assert (np.bincount(content.train.targets) == 500).all()
    assert (np.bincount(content.test.targets) == 100).all()
    assert (len(content.class_names), content.class_names[0]) == (100, "apple")
    assert content.train.images.mean((0, 1, 2)) / 255 == pytest.approx(dataset.mean, abs=1e-3)
    first = pq.ParquetFile(shared / "data" / "cifar100" / "train.parquet").read_row_group(0)
    for row in range(20):
        expected = Image.open(io.BytesIO(first["img"][row]["bytes"].as_py())).convert("RGB")
        np.testing.assert_array_equal(content.train.images[row], np.asarray(expected))
        assert content.train.targets[row] == first["fine_label"][row].as_py()

    monkeypatch.setattr(CIFAR100, "read", lambda _: content)  # decoding takes seconds
    data = open_dataset(dataset, protocol="strict")
    assert data.eval_sizes == {"test": 10_000, "val": 5_000}
    assert data.num_train == 45_000
