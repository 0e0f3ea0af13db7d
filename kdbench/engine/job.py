"""What is to be trained, and what became of it."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from kdbench.records.record import RunRecord


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be done: its resolved config, its folder and its run key."""

    cfg: DictConfig
    folder: Path
    key: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        record: None where it failed before there was anything to record.
        error: why it failed; None where it is done.
    """

    record: RunRecord | None
    error: Exception | None = None
