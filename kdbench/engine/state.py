"""Checkpoints: the only module that writes and reads the state of a run.

A checkpoint is a payload ``step00000123.pt`` and a manifest ``step00000123.json`` with its digest.
The payload is written and synced first; the manifest commits it. torch.load detects truncation but
hardly ever a flipped bit, so the digest decides whether a payload is valid.
"""

import hashlib
import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from kdbench import fault
from kdbench.errors import CheckpointError, ResourceError
from kdbench.files import write_atomic

log = logging.getLogger(__name__)

SCHEMA = 1  # incremented when the meaning of a state's content changes
DAMAGED = "damaged"  # folder for damaged checkpoints


class NewerStateError(CheckpointError):
    """A valid checkpoint that only a newer kdbench can read."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; created with the first one.
        keep: how many of the latest to keep, >= 2, in case one is damaged.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Commits a state, then removes older ones.

        Args:
            step: optimizer steps taken.
            state: tensors and plain types, nested in dicts and lists.

        Raises:
            ResourceError: no space left, even after deleting the oldest surplus checkpoint.
        """
        payload = _serialize({"schema": SCHEMA, **state})
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._commit(step, payload)
        except ResourceError:
            surplus = self._manifests()[1:]
            if not surplus:
                raise
            log.warning("no space for a checkpoint; deleting the oldest, %s", surplus[-1].stem)
            _remove(surplus[-1])
            self._commit(step, payload)
        fault.point("checkpoint:committed")
        self._rotate()

    def load(self) -> dict[str, Any] | None:
        """The latest valid state, or None if nothing was ever committed.

        Damaged checkpoints are moved to ``DAMAGED`` with a warning once an older one is known to
        be valid; if none is, nothing is moved, so that no later start silently begins from scratch.

        Raises:
            NewerStateError: the latest valid one was written by a newer version.
            CheckpointError: checkpoints exist or existed, and none is valid.
        """
        damaged: dict[Path, CheckpointError] = {}
        for manifest in self._manifests():
            try:
                state = _read(manifest)
            except NewerStateError:
                raise
            except CheckpointError as error:
                damaged[manifest] = error
                continue
            for path, reason in damaged.items():
                log.warning("%s; moved to %s", reason, self._move_to_damaged(path))
            return state
        moved = self.folder / DAMAGED
        reasons = [str(error) for error in damaged.values()]
        reasons += [f"{path} was found damaged before" for path in sorted(moved.glob("step*.json"))]
        if reasons:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged: {'; '.join(reasons)}. Restore a "
                f"valid copy, or remove {self.folder} to train this run from scratch"
            )
        return None

    def _commit(self, step: int, payload: bytes) -> None:
        path = self.folder / f"step{step:08d}.pt"
        manifest = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
        fault.point("checkpoint:begin")
        write_atomic(path, payload)
        fault.point("checkpoint:uncommitted")
        write_atomic(path.with_suffix(".json"), json.dumps(manifest).encode())

    def _rotate(self) -> None:
        committed = self._manifests()
        for manifest in committed[self.keep :]:
            _remove(manifest)
            fault.point("checkpoint:rotating")
        stems = {manifest.stem for manifest in committed}
        for payload in self.folder.glob("step*.pt"):
            if payload.stem not in stems:  # never committed
                payload.unlink()

    def _manifests(self) -> list[Path]:
        return sorted(self.folder.glob("step*.json"), reverse=True)

    def _move_to_damaged(self, manifest: Path) -> Path:
        folder = self.folder / DAMAGED
        folder.mkdir(exist_ok=True)
        for path in (manifest.with_suffix(".pt"), manifest):
            if path.exists():
                path.replace(folder / path.name)
        return folder


def _serialize(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _remove(manifest: Path) -> None:
    manifest.unlink()  # first: without its manifest the payload is not a checkpoint
    manifest.with_suffix(".pt").unlink(missing_ok=True)


def _read(manifest: Path) -> dict[str, Any]:
    path = manifest.with_suffix(".pt")
    try:
        expected = json.loads(manifest.read_text())
        payload = path.read_bytes()
        valid = expected["sha256"] == hashlib.sha256(payload).hexdigest()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{manifest} is damaged") from error
    if not valid:
        raise CheckpointError(
            f"{path} is damaged: its digest does not match its manifest ({len(payload)} bytes, "
            f"expected {expected.get('bytes')})"
        )
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # valid digest, so not damaged
        raise NewerStateError(
            f"{path} cannot be read by torch {torch.__version__}: {error}. Use the versions of "
            f"kdbench and torch that wrote it"
        ) from error
    if state["schema"] > SCHEMA:
        raise NewerStateError(
            f"{path} was written by a newer kdbench (schema {state['schema']}, this one reads "
            f"{SCHEMA}); use that version, or another paths.outputs"
        )
    return state
