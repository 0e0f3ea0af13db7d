"""The files in a run's folder, and resuming from them.

    metrics.csv, timings.csv     one row per epoch: metrics, and the time they took
    checkpoint/step*.pt, .json   the latest states (state.py), and best.safetensors
    student.safetensors          the final weights
    record.json                  the run's record, written last

``metrics.csv`` has nothing that depends on the clock, so it is identical after a restart.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench import fault
from kdbench.digest import file_digest
from kdbench.engine.learner import Learner
from kdbench.engine.state import Checkpoints
from kdbench.errors import CheckpointError, ConfigError
from kdbench.files import remove_leftovers, require_room, write_atomic
from kdbench.model.checkpoint import save_weights
from kdbench.records.differences import find_differences
from kdbench.records.identity import RunIdentity
from kdbench.records.log import for_run
from kdbench.records.record import METRICS, TIMINGS
from kdbench.records.rows import write_metrics
from kdbench.tracker.base import Tracker

log = logging.getLogger(__name__)

BEST_WEIGHTS = "best.safetensors"


class ForeignFolderError(ConfigError):
    """The folder belongs to another run."""


class Journal:
    """Persistent state of one run across attempts.

    Args:
        identity: the run's names and labels, for logs and the tracker.
        config: the run's resolved config.
        teacher_digest: of the teacher's weights; None without a teacher.
        tracker: receives the curves in addition to the CSV files.
        selection: metric that selects the best epoch, such as "test/top1".
        keep_checkpoints: see ``Checkpoints``.
        checkpoint_epochs: epochs between checkpoints.
    """

    def __init__(
        self,
        identity: RunIdentity,
        config: Mapping[str, Any],
        teacher_digest: str | None,
        tracker: Tracker,
        *,
        selection: str,
        keep_checkpoints: int,
        checkpoint_epochs: int,
    ) -> None:
        self.identity, self.config = identity, dict(config)
        self.teacher_digest, self.tracker = teacher_digest, tracker
        self.selection, self.checkpoint_epochs = selection, checkpoint_epochs
        self.checkpoints = Checkpoints(identity.folder / "checkpoint", keep_checkpoints)
        self.best_payload = b""  # content of BEST_WEIGHTS, to restore the file if damaged
        self.rows: list[dict[str, float]] = []
        self.timings: list[dict[str, float]] = []
        self.attempts = 1
        self.spent: dict[str, float] = {}  # kind of work -> seconds in the unfinished epoch
        self.warnings: list[str] = []

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.identity.folder

    @property
    def best(self) -> float:
        """Best accuracy so far on the split evaluated after each epoch, percent."""
        return max((row[self.selection] for row in self.rows), default=-1.0)

    def resume(self, learner: Learner) -> None:
        """Restores the latest valid checkpoint, if there is one, and starts the tracker.

        Raises:
            ForeignFolderError: the folder belongs to another run.
            ResourceError: not enough disk space for the checkpoints.
            CheckpointError: all checkpoints are damaged, the latest does not fit, or the teacher
                has changed.
        """
        for folder in (self.folder, self.checkpoints.folder):
            remove_leftovers(folder)
        # The checkpoints that are kept, the best weights, and the one being written.
        states = (self.checkpoints.keep + 2) * learner.state_bytes()
        require_room(self.folder, states, f"the checkpoints of {self.identity.label}")
        state = self.checkpoints.load()
        if state is not None:
            self._require_same_run(state)
            self._restore(learner, state["learner"])
            self.rows, self.timings = state["rows"], state["timings"]
            self.attempts = state["attempts"] + 1
            self._restore_best(state.get("best"))
            self.spent = state.get("spent", {})
            self.warnings = list(state.get("warnings", []))
            self.write_tables()
            self.log("continues after step %d", learner.step)
        self.tracker.start(self.identity, self.config, state["tracker"] if state else None)
        for row, timing in zip(self.rows, self.timings, strict=True):
            self.tracker.log({**row, **timing})  # skips rows it already has

    def log(self, text: str, *values: object) -> None:
        """Logs a line for this run only, not for the others of its cohort."""
        log.info(f"%s {text}", self.identity.label, *values, extra=for_run(self.identity.run_key))

    def warn(self, text: str) -> None:
        """Warns about a likely mistake, once, in the log and in the record."""
        if text not in self.warnings:
            self.warnings.append(text)
            extra = for_run(self.identity.run_key)
            log.warning("%s: warning: %s", self.identity.label, text, extra=extra)

    def commit(self, learner: Learner) -> None:
        """Saves a checkpoint of the current state."""
        learner.guard.check()  # never save a state with non-finite values
        self.checkpoints.save(
            learner.step,
            {
                "run_key": self.identity.run_key,
                "config": self.config,
                "teacher_digest": self.teacher_digest,
                "learner": learner.state_dict(),
                "best": torch.frombuffer(bytearray(self.best_payload), dtype=torch.uint8)
                if self.best_payload
                else None,
                "rows": self.rows,
                "timings": self.timings,
                "attempts": self.attempts,
                "spent": self.spent,
                "warnings": self.warnings,
                "tracker": self.tracker.state_dict(),
            },
        )

    def end_step(self, learner: Learner) -> None:
        """Logs batch metrics if the tracker wants this step; otherwise reads nothing."""
        every = self.tracker.every_steps
        if every and learner.step % every == 0:
            self.tracker.log_point({"step": learner.step, **learner.meter.point()})

    def end_epoch(
        self, learner: Learner, row: dict[str, float], timing: dict[str, float], last: bool
    ) -> None:
        """Logs an epoch and saves a checkpoint; a crash in between loses only this epoch."""
        learner.guard.check()
        if row[self.selection] > self.best:
            path = self.checkpoints.folder / BEST_WEIGHTS
            save_weights(
                path,
                learner.student.state_dict(),
                {"epoch": str(row["epoch"]), self.selection: repr(row[self.selection])},
            )
            self.best_payload = path.read_bytes()
        fault.point("epoch:measured")
        self.rows.append(row)
        self.timings.append(timing)
        self.tracker.log({**row, **timing})  # first, so that its saved state includes this row
        if last or len(self.rows) % self.checkpoint_epochs == 0:
            self.commit(learner)
        fault.point("epoch:committed")
        self.write_tables()

    def write_tables(self) -> None:
        """Writes the CSV files with all epochs so far."""
        write_metrics(self.folder / METRICS, self.rows)
        write_metrics(self.folder / TIMINGS, self.timings)

    @property
    def best_digest(self) -> str | None:
        """SHA-256 of the file with the best weights; None if there is none."""
        return hashlib.sha256(self.best_payload).hexdigest() if self.best_payload else None

    def _restore_best(self, payload: Tensor | None) -> None:
        """Restores the best weights, and their file if it is missing or changed."""
        if payload is None:
            return
        self.best_payload = payload.numpy().tobytes()
        path = self.checkpoints.folder / BEST_WEIGHTS
        if not path.is_file() or file_digest(path) != self.best_digest:
            log.warning("%s was missing or changed; restored from the checkpoint", path)
            write_atomic(path, self.best_payload)

    def _restore(self, learner: Learner, state: dict[str, Any]) -> None:
        try:
            learner.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.checkpoints.folder} does not fit this version of the "
                f"code: {error}. Use the version that wrote it, or remove that folder to train "
                f"this run from scratch"
            ) from error

    def _require_same_run(self, state: dict[str, Any]) -> None:
        if state["run_key"] != self.identity.run_key:
            changed = [
                f"{d.path}: {d.old!r} there, {d.new!r} here"
                for d in find_differences(state["config"], self.config)
            ]
            raise ForeignFolderError(
                f"{self.folder} holds another run ({state['run_key'][:10]}, this one is "
                f"{self.identity.run_key[:10]}). Differences: {'; '.join(changed) or 'files'}. "
                f"Choose another hydra.run.dir, or remove that folder"
            )
        if state["teacher_digest"] != self.teacher_digest:
            raise CheckpointError(
                f"{self.folder} was started with another teacher: the digest of its weights was "
                f"{state['teacher_digest']}, now it is {self.teacher_digest}. Restore the old "
                f"teacher, or remove that folder"
            )
