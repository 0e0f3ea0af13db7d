import json
import shutil

import pytest
import torch

from kdbench.engine import state as state_module
from kdbench.engine.state import Checkpoints
from kdbench.errors import CheckpointError, ResourceError
from kdbench.model.checkpoint import save_weights


@pytest.fixture
def checkpoints(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoint", keep=2)
    for step in (1, 2, 3):
        kept.save(step, {"step": step, "weights": {"w": torch.full((64,), float(step))}})
    return kept


def newest(checkpoints, suffix=".pt"):
    return max(checkpoints.folder.glob(f"step*{suffix}"))


def test_the_latest_is_loaded_and_old_ones_are_removed(checkpoints):
    assert checkpoints.load()["step"] == 3
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        f"step0000000{n}.{kind}" for n in (2, 3) for kind in ("json", "pt")
    ]


def test_nothing_was_saved(tmp_path):
    assert Checkpoints(tmp_path / "none", keep=2).load() is None


def flip(path, position, bit):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


DAMAGE = {
    **{
        f"truncated at {p} %": lambda f, p=p: f.write_bytes(
            f.read_bytes()[: f.stat().st_size * p // 100]
        )
        for p in range(0, 100, 5)
    },
    **{
        f"bit flip {n}": lambda f, n=n: flip(f, n * 7919 % f.stat().st_size, n % 8)
        for n in range(60)
    },
    "removed": lambda f: f.unlink(),
    "zeroed": lambda f: f.write_bytes(bytes(f.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_detected_and_the_older_one_used(checkpoints, damage, caplog):
    DAMAGE[damage](newest(checkpoints))
    assert checkpoints.load()["step"] == 2
    assert "step00000003.pt is" in caplog.text
    assert checkpoints.load()["step"] == 2  # the damaged one is not tried again
    checkpoints.save(3, {"step": 3})
    assert checkpoints.load()["step"] == 3


@pytest.mark.parametrize("content", ["", "{}", "[]", "{not json", '{"sha256": "0"}'])
def test_a_damaged_manifest_falls_back_too(checkpoints, content):
    newest(checkpoints, ".json").write_text(content)
    assert checkpoints.load()["step"] == 2


def test_without_its_manifest_a_payload_was_never_committed(checkpoints):
    newest(checkpoints, ".json").unlink()
    assert checkpoints.load()["step"] == 2
    checkpoints.save(4, {"step": 4})
    assert not (checkpoints.folder / "step00000003.pt").exists()


def test_all_damaged_is_an_error_and_not_a_fresh_start(checkpoints):
    for path in checkpoints.folder.glob("*.pt"):
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in checkpoints.folder.iterdir()}
    for _ in range(3):  # repeating the command does not start from scratch
        with pytest.raises(
            CheckpointError,
            match=r"all checkpoints.*damaged.*step00000003.*step00000002.*remove .*checkpoint to",
        ):
            checkpoints.load()
    assert {path: path.read_bytes() for path in checkpoints.folder.iterdir()} == before


def test_moved_checkpoints_still_prevent_a_fresh_start(checkpoints):
    newest(checkpoints).write_bytes(b"")
    checkpoints.load()
    for path in checkpoints.folder.glob("step*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"step00000003\.json was found damaged before"):
        checkpoints.load()
    shutil.rmtree(checkpoints.folder)  # what the message says
    assert checkpoints.load() is None


def test_a_newer_schema_is_named(checkpoints, monkeypatch):
    monkeypatch.setattr(state_module, "SCHEMA", 7)
    checkpoints.save(9, {"step": 9})
    monkeypatch.setattr(state_module, "SCHEMA", 1)
    before = sorted(checkpoints.folder.rglob("*"))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="schema 7, this one reads 1"):
            checkpoints.load()
    assert sorted(checkpoints.folder.rglob("*")) == before  # nothing is moved, nothing older used


def test_a_full_disk_removes_only_the_surplus(checkpoints, monkeypatch):
    attempts = []

    def write(path, payload):
        attempts.append(path.name)
        if len(attempts) == 1:
            raise ResourceError("no space")
        path.write_bytes(payload)

    monkeypatch.setattr(state_module, "write_atomic", write)
    checkpoints.save(4, {"step": 4})
    assert checkpoints.load()["step"] == 4
    assert attempts == ["step00000004.pt", "step00000004.pt", "step00000004.json"]


def test_a_disk_that_stays_full_keeps_the_last_checkpoint(checkpoints, monkeypatch):
    def write(path, payload):
        raise ResourceError("no space")

    monkeypatch.setattr(state_module, "write_atomic", write)
    with pytest.raises(ResourceError, match="no space"):
        checkpoints.save(4, {"step": 4})
    assert checkpoints.load()["step"] == 3


def test_weights_are_safetensors_with_metadata(tmp_path):
    from safetensors import safe_open

    weights = {"w": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    save_weights(tmp_path / "new" / "w.safetensors", weights, {"arch": "resnet8"})
    with safe_open(tmp_path / "new" / "w.safetensors", "pt") as file:
        assert file.metadata() == {"arch": "resnet8"}
        assert torch.equal(file.get_tensor("w"), weights["w"])


def test_the_manifest_is_plain_json(checkpoints):
    manifest = json.loads(newest(checkpoints, ".json").read_text())
    assert manifest["bytes"] == newest(checkpoints).stat().st_size
