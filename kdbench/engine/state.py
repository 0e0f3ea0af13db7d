"""Checkpoints: the only module that writes and reads the state of a run.

A checkpoint is a payload ``step00000123.pt`` and a manifest ``step00000123.json`` with its digest.
The payload is written and synced first; the manifest is the commit mark. torch.load notices
truncation but practically never a flipped bit, so the digest decides whether a payload is sound.
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

SCHEMA = 1  # raised when the content of a state changes its meaning
DAMAGED = "damaged"  # folder of what was set aside


class NewerStateError(CheckpointError):
    """A sound checkpoint that only a newer kdbench can read."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; made when the first one is saved.
        keep: how many of the newest stay, >= 2, so that one may be damaged.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Commits a state; older ones are removed only after that.

        Args:
            step: optimizer steps taken.
            state: tensors and plain types, nested in dicts and lists.

        Raises:
            ResourceError: there is no room, even after dropping the oldest surplus checkpoint.
        """
        payload = _serialise({"schema": SCHEMA, **state})
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._commit(step, payload)
        except ResourceError:
            surplus = self._manifests()[1:]
            if not surplus:
                raise
            log.warning("no room for a checkpoint; dropping the oldest, %s", surplus[-1].stem)
            _remove(surplus[-1])
            self._commit(step, payload)
        fault.point("checkpoint:committed")
        self._rotate()

    def load(self) -> dict[str, Any] | None:
        """The newest sound state, or None where nothing was ever committed.

        A damaged checkpoint is set aside with a warning once an older one is known to be sound;
        where none is, everything stays as it is, so that the next start does not begin from zero.

        Raises:
            NewerStateError: the newest sound one is of a newer version.
            CheckpointError: there are checkpoints, or were, and none of them is sound.
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
                log.warning("%s; set aside in %s", reason, self._set_aside(path))
            return state
        aside = self.folder / DAMAGED
        reasons = [str(error) for error in damaged.values()]
        reasons += [f"{path} was set aside" for path in sorted(aside.glob("step*.json"))]
        if reasons:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged: {'; '.join(reasons)}. Put a sound "
                f"copy back, or remove {self.folder} to train this run from zero"
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
        sound = {manifest.stem for manifest in committed}
        for leftover in self.folder.glob("step*.pt"):
            if leftover.stem not in sound:  # never committed
                leftover.unlink()

    def _manifests(self) -> list[Path]:
        return sorted(self.folder.glob("step*.json"), reverse=True)

    def _set_aside(self, manifest: Path) -> Path:
        folder = self.folder / DAMAGED
        folder.mkdir(exist_ok=True)
        for path in (manifest.with_suffix(".pt"), manifest):
            if path.exists():
                path.replace(folder / path.name)
        return folder


def _serialise(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _remove(manifest: Path) -> None:
    manifest.unlink()  # first: without its mark the payload is no checkpoint any more
    manifest.with_suffix(".pt").unlink(missing_ok=True)


def _read(manifest: Path) -> dict[str, Any]:
    path = manifest.with_suffix(".pt")
    try:
        expected = json.loads(manifest.read_text())
        payload = path.read_bytes()
        sound = expected["sha256"] == hashlib.sha256(payload).hexdigest()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{manifest} is damaged") from error
    if not sound:
        raise CheckpointError(
            f"{path} is damaged: {len(payload)} bytes do not have the digest of its manifest "
            f"({expected.get('bytes')} bytes)"
        )
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # sound, so it is not damage
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
