import errno
import os

import pytest

from kdbench.errors import ResourceError
from kdbench.files import (
    ABANDONED,
    make_folder,
    naming,
    refuse_links,
    remove_abandoned,
    require_room,
    write_atomic,
    write_cache,
)


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


def test_disk_space_is_checked_before_writing(tmp_path):
    require_room(tmp_path / "not" / "there", 1000, "the checkpoints")
    with pytest.raises(ResourceError, match=r"free, but the checkpoints need 1,0+"):
        require_room(tmp_path, 10**18, "the checkpoints")


PLANTED = ["run.lock", "run.owner.json", "train.log", "record.json", "metrics.csv"]
PLANTED += [".hydra", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoint", "wandb"]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("dangling", [True, False])
def test_links_in_a_run_folder_are_not_followed(tmp_path, name, dangling):
    from kdbench.config.compose import write_config
    from kdbench.records.lock import run_lock
    from kdbench.records.log import LogFile, log_failure, run_log

    folder, victim = tmp_path / "run", tmp_path / "victim"
    path = folder / name
    path.parent.mkdir(parents=True)
    if not dangling:
        victim.write_text("precious")
    path.symlink_to(victim)

    def log_into():
        with run_log(folder, "x"):
            pass

    def lock():
        with run_lock(folder):
            pass

    for write in (
        log_into,
        lock,
        lambda: LogFile(folder / "train.log"),
        lambda: write_config({"config.yaml": "evil"}, folder),
    ):
        with pytest.raises(ResourceError, match=f"{path} is a link.*remove it"):
            write()
    log_failure(folder, ValueError())
    assert victim.exists() is not dangling
    assert dangling or victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["run.lock", ".hydra/config.yaml", "train.log"])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ResourceError, match="is a folder, where kdbench needs a file"):
        refuse_links(tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / ".hydra").touch()
    with pytest.raises(ResourceError, match="is a file, where kdbench needs a folder"):
        refuse_links(tmp_path)


def test_a_run_folder_may_be_behind_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "not yet there")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_is_only_a_warning(tmp_path, monkeypatch, caplog, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    write_cache(tmp_path / "cache" / "file", b"1")
    assert "file is not cached and will be recomputed" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_on_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ResourceError, match="No space left"):
        write_cache(tmp_path / "file", b"1")


def test_files_of_a_killed_writer_are_removed_later(tmp_path):
    old, new = tmp_path / ".a.0.tmp", tmp_path / ".b.0.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = new.stat().st_mtime - ABANDONED - 1
    os.utime(old, (long_ago, long_ago))
    remove_abandoned(tmp_path.parent)
    assert [path.name for path in tmp_path.iterdir()] == [".b.0.tmp"]


def test_a_system_error_names_the_file(tmp_path):
    path = tmp_path / "here.txt"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as os.write raises it
    expected = pytest.raises(ResourceError, match=r"here\.txt cannot be used: No space left")
    with expected, naming(path):
        raise full


def test_a_lack_of_inodes_is_reported(tmp_path, monkeypatch):
    found = os.statvfs(tmp_path)

    class Full:
        f_files, f_favail = 100, 0
        f_frsize, f_bavail, f_blocks, f_bfree = (
            found.f_frsize,
            found.f_bavail,
            found.f_blocks,
            found.f_bfree,
        )

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "statvfs", lambda place: Full)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(ResourceError, match="no inodes left"):
        write_atomic(tmp_path / "file", b"1")


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ResourceError, match="run is not writable"):
        make_folder(tmp_path / "run")
