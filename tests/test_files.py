import errno
import os

import pytest

from kdbench.errors import ResourceError
from kdbench.files import require_room, write_atomic


def test_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ResourceError) as caught:
        write_atomic(path, b"12345678")
    message = str(caught.value)
    assert str(path) in message
    assert "No space left" in message
    assert "8 bytes are needed" in message
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResourceError, match="taken"):
        write_atomic(tmp_path / "taken" / "file", b"x")


def test_a_planted_link_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("keep")
    (tmp_path / "file").symlink_to(victim)
    write_atomic(tmp_path / "file", b"new")
    assert victim.read_text() == "keep"
    assert not (tmp_path / "file").is_symlink()


def test_room_is_asked_for_before_anything_is_written(tmp_path):
    require_room(tmp_path / "not" / "there", 1000, "the checkpoints")
    with pytest.raises(ResourceError, match=r"free, and the checkpoints need 1,0+"):
        require_room(tmp_path, 10**18, "the checkpoints")
