"""Types of the fixed sections. The values are in ``conf/``, so every field here is mandatory.

Swappable parts (``Any``) are typed by the signature of their ``_target_``: see ``check.py``.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

PROTOCOLS = ("paper", "strict")
MEMO_MODES = ("off", "memory", "disk")


@dataclass
class RunConf:
    """How a run is carried out."""

    epochs: int = MISSING
    protocol: str = MISSING
    precision: str = MISSING
    device: str = MISSING
    threads: int | None = MISSING
    data_seed: int = MISSING
    checkpoint_epochs: int = MISSING
    checkpoint_minutes: float = MISSING
    keep_checkpoints: int = MISSING


@dataclass
class SpeedConf:
    """Optimizations that change results by rounding only."""

    channels_last: bool = MISSING
    fold_teacher: bool = MISSING
    fused_norm: bool = MISSING
    fused_optimizer: bool = MISSING


@dataclass
class PathsConf:
    """Where files are."""

    outputs: str = MISSING
    teachers: str = MISSING
    data: str = MISSING
    cache: str = MISSING


@dataclass
class OptimConf:
    """Optimizer and learning-rate schedule of one network."""

    lr: float = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING


@dataclass
class TeacherConf:
    """The teacher and, if it is trained here, its training.

    ``stage`` is the composed recipe; only resolved configs have it.
    """

    model: Any = MISSING
    optim: OptimConf = MISSING
    weights: str = MISSING
    recipe: list[str] = MISSING
    epochs: int | None = MISSING
    seed: int = MISSING
    precision: str = MISSING
    expected_top1: float | None = MISSING
    tolerance: float = MISSING
    memo: str = MISSING
    stage: Any = None


@dataclass
class Config:
    """Root of the configuration."""

    dataset: Any = MISSING
    teacher: TeacherConf = MISSING
    student: Any = MISSING
    temperature: Any = MISSING
    objective: Any = MISSING
    plugin: Any = MISSING
    optim: OptimConf = MISSING
    tracker: Any = MISSING
    run: RunConf = MISSING
    speed: SpeedConf = MISSING
    paths: PathsConf = MISSING
    seed: int = MISSING
    method: str = MISSING
    pair: str = MISSING
    table: str | None = None  # set by conf/table; None in configs restored from a record
    role: str = "student"  # "teacher": the run trains the teacher of another run


def register() -> None:
    """Registers the schema with Hydra under the name that ``conf/train.yaml`` lists first.

    The store is shared by the whole process, so the name must be unique.
    """
    ConfigStore.instance().store(name="kdbench_schema", node=Config, provider="kdbench")
