"""Files that are not as they should be: every case ends with a DataError that says what to do."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdbench.data.base import Arrays
from kdbench.errors import DataError

NAMES = [f"name{i}" for i in range(10)]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(pictures):
    return [png(pixels) for pixels in pictures.images]


def structs(pictures):
    return [{"bytes": value, "path": None} for value in encoded(pictures)]


def hub(content):
    return {"huggingface": content if isinstance(content, bytes) else json.dumps(content)}


def features(names):
    return hub({"info": {"features": {"label": {"names": names}}}})


def flat(pictures):
    """16 x 64 pixels: as many values as 32 x 32."""
    return Arrays(pictures.images.reshape(-1, 16, 64, 3), pictures.targets)


# What stands in the parquet file instead of a sound image or label column, or its metadata; what
# the message must name.
PARQUET = {
    "images of another shape": (
        lambda p: {"img": structs(flat(p))},
        r"train\.parquet row 0 has 64x16 pixels .*, expected 32x32.*dataset\.image_size",
    ),
    "list of numbers as image": (
        lambda p: {"img": [[1, 2, 3]] * 20},
        r"column img has the type list<.*encoded images",
    ),
    "text as image": (lambda p: {"img": ["a"] * 20}, r"column img has the type string.*binary"),
    "extension type as image": (
        lambda p: {
            "img": pa.FixedShapeTensorArray.from_numpy_ndarray(p.images.reshape(20, -1).copy())
        },
        r"column img has the type extension.*encoded images",
    ),
    "struct without bytes": (
        lambda p: {"img": [{"path": "a"}] * 20},
        r"column img has the type struct<path: string>.*'bytes'",
    ),
    "struct with bytes that are text": (
        lambda p: {"img": [{"bytes": "a"}] * 20},
        r"column img has the type struct<bytes: string>.*binary",
    ),
    "null image": (
        lambda p: {"img": [None, *structs(p)[1:]]},
        r"train\.parquet row 0 cannot be decoded",
    ),
    "binary that is no image": (
        lambda p: {"img": [b"x"] * 20},
        r"row 0 cannot be decoded as an image.*restore",
    ),
    "text labels": (
        lambda p: {"label": ["cat"] * 20},
        r"column label has the type string; labels must be integers.*int64",
    ),
    "fractions as labels": (
        lambda p: {"label": [0.7, 1.7] * 10},
        r"column label has the type double; labels must be integers",
    ),
    "true and false as labels": (
        lambda p: {"label": [True] * 20},
        "column label has the type bool",
    ),
    "missing label": (lambda p: {"label": [1, None] * 10}, r"row 1 has no label; remove the row"),
    "huge label": (
        lambda p: {"label": [0] * 7 + [2**40] + [0] * 12},
        r"label 1099511627776 of row 7 is outside 0\.\.9 \(dataset\.num_classes=10\)",
    ),
    "label beyond int64": (
        lambda p: {"label": pa.array([2**63] * 20, pa.uint64())},
        r"label 9223372036854775808 of row 0 is outside 0\.\.9",
    ),
    "negative label": (lambda p: {"label": [-1] * 20}, r"label -1 of row 0 is outside 0\.\.9"),
    "metadata that is no JSON": (lambda p: hub(b"{"), r"'huggingface' metadata.*classes\.txt"),
    "metadata that is a list": (lambda p: hub([1]), r"'huggingface' metadata.*classes\.txt"),
    "metadata that is no text": (lambda p: hub(b"\xff\xfe\xfd"), r"'huggingface' metadata"),
    "names that are no list": (lambda p: features(7), r"names=7.*classes\.txt"),
    "names that are numbers": (lambda p: features([1, 2]), r"names=\[1, 2\].*classes\.txt"),
}


def write_parquet(folder, pictures, content=None):
    content = dict(content or {})
    metadata = {key: content.pop(key) for key in list(content) if key == "huggingface"}
    table = pa.table({"img": structs(pictures), "label": pictures.targets, **content})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata or None), folder / "train.parquet")
    sound = pa.table({"img": structs(pictures), "label": pictures.targets})
    pq.write_table(sound, folder / "test.parquet")


def read(make_dataset, root):
    dataset = make_dataset("cifar10", root=str(root))
    dataset.source(root / "cache")
    return dataset.read()


@pytest.mark.parametrize("case", PARQUET)
def test_odd_parquet(case, tmp_path, make_dataset, pictures):
    content, message = PARQUET[case]
    write_parquet(tmp_path, pictures, content(pictures))
    with pytest.raises(DataError, match=message) as caught:
        read(make_dataset, tmp_path)
    assert str(tmp_path / "train.parquet") in str(caught.value)
    assert caught.value.exit_code == 3


def test_encoded_images_without_a_struct_are_read(tmp_path, make_dataset, pictures):
    write_parquet(tmp_path, pictures, {"img": encoded(pictures)})
    content = read(make_dataset, tmp_path)
    np.testing.assert_array_equal(content.train.images, pictures.images)


def _two_columns(folder):
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.append_column("img", table["img"]), folder / "train.parquet")


def _folder_as_parquet(folder):
    (folder / "train-0.parquet").mkdir()


def _dangling_parquet(folder):
    (folder / "train-0.parquet").symlink_to("nowhere")


def _looping_parquet(folder):
    (folder / "train-0.parquet").symlink_to("train-0.parquet")


def _foreign_name(folder):
    (folder / os.fsdecode(b"train-\xff.parquet")).write_bytes(b"")


def _foreign_class_names(folder):
    (folder / "classes.txt").write_bytes(b"\xff\xfe\n" * 10)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_two_columns, "has the columns img, label, img; it must have .* once each"),
        (_folder_as_parquet, r"train-0\.parquet is a folder, not a parquet file"),
        (_dangling_parquet, r"train-0\.parquet is a broken link"),
        (_looping_parquet, r"train-0\.parquet is a broken link"),
        (_foreign_name, r"contains b'train-\\xff\.parquet', which is not UTF-8; rename it"),
        (_foreign_class_names, r"classes\.txt is not UTF-8 text .* save it as UTF-8, or remove it"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_") or None,
)
def test_odd_files_beside_parquet(spoil, message, tmp_path, make_dataset, pictures):
    write_parquet(tmp_path, pictures)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        read(make_dataset, tmp_path)


def _png_folder(folder):
    (folder / "class0" / "x.png").mkdir()
    return "x.png is a folder, not an image; remove it"


def _dangling_link(folder):
    (folder / "class0" / "x.png").symlink_to("nowhere")
    return "x.png is a broken link; fix or remove it"


def _link_loop(folder):
    (folder / "class0" / "x.png").symlink_to("x.png")
    return "x.png is a broken link; fix or remove it"


def _pipe(folder):
    os.mkfifo(folder / "class0" / "x.png")
    return "x.png is a special file, not an image"


def _dangling_class(folder):
    (folder / "extra").symlink_to("nowhere")
    return "extra is a broken link"


def _looping_class(folder):
    (folder / "extra").symlink_to("extra")
    return "extra is a broken link"


def _class_is_its_parent(folder):
    (folder / "extra").symlink_to("..")
    return r"extra/(train|test) is not an image"


def _foreign_file_name(folder):
    (folder / "class0" / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    return r"class0 contains b'\\xe9\.png', which is not UTF-8; rename it"


def _foreign_class(folder):
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    return r"train contains b'caf\\xe9', which is not UTF-8; rename it"


def _flat_image(folder):
    Image.new("RGB", (64, 16)).save(folder / "class0" / "x.png")
    return r"x\.png has 64x16 pixels .*, expected 32x32"


def _float_image(folder):
    Image.new("F", (32, 32)).save(folder / "class0" / "x.tif")
    return r"x\.tif has 32-bit values \(mode F\).*convert it to 8 or 16 bits"


def _save_as(folder, kind):
    Image.new("RGB", (32, 32)).save(folder / "class0" / "x.png", kind)
    return r"x\.png cannot be decoded as an image .*allowed are PNG, JPEG"


@pytest.mark.parametrize(
    "spoil",
    [
        _png_folder, _dangling_link, _link_loop, _pipe, _dangling_class, _looping_class,
        _class_is_its_parent, _foreign_file_name, _foreign_class, _flat_image, _float_image,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)  # fmt: skip
def test_odd_class_folders(spoil, tmp_path, make_dataset, pictures, save_folders):
    for split in ("train", "test"):
        save_folders(tmp_path / split, pictures)
    message = spoil(tmp_path / "train")
    with pytest.raises(DataError, match=message) as caught:
        read(make_dataset, tmp_path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", ["EPS", "DDS", "AVIF", "QOI", "GIF", "PDF"])
def test_other_formats_are_refused_unopened(
    kind, tmp_path, make_dataset, pictures, save_folders, monkeypatch
):
    for split in ("train", "test"):
        save_folders(tmp_path / split, pictures)
    try:
        message = _save_as(tmp_path / "train", kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("the same"))
    with pytest.raises(DataError, match=message):
        read(make_dataset, tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_of_16_bits_the_upper_8_are_taken(suffix, tmp_path, make_dataset, pictures, save_folders):
    for split in ("train", "test"):
        save_folders(tmp_path / split, pictures)
    grey = np.arange(1024).astype(np.uint8).reshape(32, 32)
    file = tmp_path / "train" / "class0" / f"a{suffix}"
    if suffix == ".ppm":
        file.write_bytes(b"P5 32 32 65535\n" + (grey.astype(">u2") * 257).tobytes())
    else:
        Image.fromarray(grey.astype(np.uint16) * 257).save(file)
    content = read(make_dataset, tmp_path)
    expected = np.repeat(grey[..., None], 3, 2)
    assert any((image == expected).all() for image in content.train.images)
