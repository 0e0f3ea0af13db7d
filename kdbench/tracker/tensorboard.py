"""TensorBoard: curves and results of a run as event files in its folder. Needs no account."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kdbench.errors import ConfigError
from kdbench.files import refuse_links
from kdbench.records.flat import Scalar
from kdbench.records.identity import RunIdentity
from kdbench.tracker.base import best_so_far
from kdbench.tracker.redact import describe_problem, redact

logger = logging.getLogger("kdbench")

FOLDER = "tensorboard"  # in the folder of the run
_STATE = "tensorboard"


class TensorboardTracker:
    """Event files of one learner, in ``<run folder>/tensorboard``.

    Scalars have the same names and steps as in W&B. The HParams tab compares finished runs by their
    config and the numbers of their record. A resumed run writes a new file, which hides what the
    previous one has beyond the last checkpoint.

    After the run has started nothing here raises: the first failure is logged as a warning, and
    training continues.

    Args:
        every_steps: steps between points within an epoch, >= 0; 0: no points.

    Raises:
        ConfigError: ``every_steps`` is negative.
    """

    def __init__(self, every_steps: int) -> None:
        if every_steps < 0:
            raise ConfigError(f"tracker.every_steps={every_steps} must be >= 0; 0 is off")
        self.every_steps = every_steps
        self._writer: Any = None
        self._step = -1  # of the last row in the files
        self._points: list[dict[str, float | int]] = []  # since that row
        self._best: dict[str, float] = {}
        self._curves: set[str] = set()
        self._columns: dict[str, Scalar] = {}

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens the files, or continues after the last checkpoint; a failure is a warning.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        known = (state or {}).get(_STATE) or {}
        self._step = int(known.get("step", -1))
        points = [dict(point) for point in known.get("points", [])]
        self._columns = {name: redact(v) for name, v in identity.labels(redact(config)).items()}
        writer = _import_writer()
        folder = identity.folder / FOLDER
        try:
            refuse_links(folder)
            self._writer = writer(str(folder), purge_step=self._step + 1)
        except Exception as error:
            self._warn(error)
        for point in points:  # the new file hides those in the old one
            self.log_point(point)

    def log(self, row: Mapping[str, float | int]) -> None:
        """Writes one row, unless it is in the files already."""
        step = int(row["step"])
        self._best = best_so_far(row, self._best)
        self._curves |= {*row, *self._best}
        if step > self._step and self._attempt(partial(_add, {**row, **self._best}, step)):
            self._step, self._points = step, []

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Writes a point within an epoch."""
        self._points.append(dict(point))
        self._curves |= point.keys()
        self._attempt(partial(_add, point, int(point["step"])))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Adds config and numbers of a finished run, and closes the files."""
        if status == "done":
            numbers = {name: float(value) for name, value in summary.items()}
            self._attempt(partial(self._add_summary, numbers))
        self._attempt(lambda writer: writer.close())
        self._writer = None

    def state_dict(self) -> dict[str, Any]:
        """Flushes the files; returns the step of the last row, and the points after it."""
        self._attempt(lambda writer: writer.flush())
        return {_STATE: {"step": self._step, "points": list(self._points)}}

    def _add_summary(self, numbers: Mapping[str, float], writer: Any) -> None:
        from torch.utils.tensorboard.summary import hparams

        columns = {k: "none" if v is None else v for k, v in self._columns.items()}
        for part in hparams(columns, dict(numbers)):
            writer.file_writer.add_summary(part)
        missing = {name: value for name, value in numbers.items() if name not in self._curves}
        _add(missing, max(self._step, 0), writer)  # HParams shows scalars

    def _attempt(self, action: Callable[[Any], object]) -> bool:
        """Runs an action on the open writer; returns whether it succeeded."""
        if self._writer is None:
            return False
        try:
            action(self._writer)
        except Exception as error:
            self._writer = None
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        logger.warning(
            "TensorBoard is off for this run (%s); training is not affected and metrics.csv "
            "is complete",
            describe_problem(error),
        )


def _add(values: Mapping[str, float | int], step: int, writer: Any) -> None:
    for name, value in values.items():
        if name != "step":
            writer.add_scalar(name, value, step)
    writer.flush()


def _import_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # a broken installation may raise anything
        raise ConfigError(
            f"tracker=tensorboard needs the package tensorboard, which cannot be imported: "
            f"{type(error).__name__}: {error}; pip install 'kdbench[tensorboard]', or choose "
            f"tracker=csv"
        ) from error
    return SummaryWriter
