import numpy as np
import pytest

from kdbench.data.folders import find_folders, scan, scan_pair
from kdbench.errors import DataError


@pytest.fixture
def folder(tmp_path, pictures, save_folders):
    save_folders(tmp_path / "train", pictures)
    return tmp_path / "train"


def test_labels_follow_the_sorted_names(folder):
    (folder / "class0").rename(folder / "zebra")
    found = scan(folder)
    assert found.class_names == (*(f"class{label}" for label in range(1, 10)), "zebra")
    np.testing.assert_array_equal(found.targets, np.repeat(np.arange(10), 2))
    assert [path.parent.name for path in found.files[-2:]] == ["zebra", "zebra"]
    assert list(found.files) == sorted(found.files)


def test_hidden_files_are_ignored(folder):
    (folder / ".cache").mkdir()
    (folder / "class3" / ".DS_Store").write_text("")
    assert len(scan(folder).files) == 20


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} has no class folders"):
        scan(tmp_path)


def test_empty_classes_are_named(folder):
    (folder / "void").mkdir()
    (folder / "nought").mkdir()
    with pytest.raises(DataError, match="empty class folders: nought, void"):
        scan(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("x.png", b"", "is empty"), ("notes.txt", b"hello", "is not an image")],
)
def test_foreign_and_empty_files_are_named(folder, name, content, message):
    path = folder / "class4" / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}"):
        scan(folder)


def test_different_classes_are_named(folder, pictures, save_folders):
    test = folder.parent / "test"
    save_folders(test, pictures)
    (test / "class1").rename(test / "extra")
    with pytest.raises(DataError, match="only in one of them: class1, extra"):
        scan_pair(folder, test)


@pytest.mark.parametrize("content", [b"no image at all", "truncated"])
def test_a_corrupt_image_is_named(folder, pictures, save_folders, content):
    save_folders(folder.parent / "test", pictures)
    path = folder / "class2" / "002.png"
    path.write_bytes(path.read_bytes()[:200] if content == "truncated" else content)
    layout = find_folders(folder.parent, (32, 32, 3))
    with pytest.raises(DataError, match=f"{path} cannot be decoded"):
        layout.read()


def test_another_image_size_is_named(folder, pictures, save_folders):
    save_folders(folder.parent / "test", pictures)
    with pytest.raises(DataError, match=r"has 32x32 pixels .*, expected 16x16"):
        find_folders(folder.parent, (16, 16, 3)).read()
