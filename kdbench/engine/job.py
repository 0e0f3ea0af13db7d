"""Jobs and their outcomes."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from kdbench.records.record import RunRecord


@dataclass(frozen=True, eq=False)
class Job:
    """A run to train: resolved config, folder and run key."""

    cfg: DictConfig
    folder: Path
    key: str


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        record: None if the job failed before there was anything to record.
        error: why it failed; None if it succeeded.
    """

    record: RunRecord | None
    error: Exception | None = None
