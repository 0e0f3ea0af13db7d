import os
import shutil

import pytest

from kdbench.data import source
from kdbench.data.source import digest_files, identify


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    paths = [folder / "a", folder / "b", folder / "sub" / "a"]
    for path in paths:
        path.write_text(str(path.relative_to(folder)))
    return paths


def test_digest_does_not_depend_on_place_or_order(files, tmp_path):
    cache = tmp_path / "cache"
    moved = shutil.copytree(tmp_path / "data", tmp_path / "moved")
    copies = [moved / path.relative_to(tmp_path / "data") for path in files]
    assert digest_files(files, cache) == digest_files(reversed(copies), cache)


def test_digest_covers_names_and_content(files, tmp_path):
    cache = tmp_path / "cache"
    digests = {digest_files(files, cache)}
    files[0].write_text("x")
    digests.add(digest_files(files, cache))
    files[1].rename(files[1].with_name("c"))
    digests.add(digest_files([files[0], files[1].with_name("c"), files[2]], cache))
    assert len(digests) == 3


def test_unchanged_files_are_read_once(files, tmp_path, monkeypatch):
    read = []
    digest = source.file_digest
    monkeypatch.setattr(source, "file_digest", lambda path: read.append(path) or digest(path))
    cache = tmp_path / "cache"
    first = digest_files(files, cache)
    assert digest_files(files, cache) == first
    assert sorted(read) == sorted(files)
    os.utime(files[1], ns=(0, 0))
    assert digest_files(files, cache) == first
    assert read[len(files) :] == [files[1]]


def test_damaged_cached_digests_are_recomputed(files, tmp_path):
    cache = tmp_path / "cache"
    first = digest_files(files, cache)
    (memo,) = (cache / "digests").iterdir()
    memo.write_text("{")
    assert digest_files(files, cache) == first


def test_one_wrong_digit_of_a_cached_digest_is_detected(files, tmp_path):
    cache = tmp_path / "cache"
    first = digest_files(files, cache)
    (memo,) = (cache / "digests").iterdir()
    text = memo.read_text()
    for position in [at for at, letter in enumerate(text) if letter in "0123456789abcdef"][::7]:
        wrong = "1" if text[position] != "1" else "2"
        memo.write_text(text[:position] + wrong + text[position + 1 :])
        assert digest_files(files, cache) == first
    assert memo.read_text() == text  # and it is mended


def test_the_digest_covers_the_reader_and_its_version(files, tmp_path):
    digests = {identify("k", files, tmp_path, f"reader/{v}").digest for v in (1, 2)}
    assert len(digests) == 2


def test_large_datasets_are_sampled_and_marked(files, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_SAMPLE_ABOVE", 3)
    monkeypatch.setattr(source, "_SAMPLE_SIZE", 1)
    first = identify("class-folders", files, tmp_path, "r/1")
    assert first.kind == "class-folders (content sampled)"
    assert identify("class-folders", files, tmp_path, "r/1") == first
    files[0].write_text("longer than before")
    assert identify("class-folders", files, tmp_path, "r/1").digest != first.digest
