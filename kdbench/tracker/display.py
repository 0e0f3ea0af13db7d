"""Progress display: a bar on a terminal, and one log line per learner and epoch."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Self, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kdbench.records.metric import ACCURACIES, of_line
from kdbench.words import clock

logger = logging.getLogger("kdbench")

_TEMPERATURES = ("temperature/teacher_mean", "temperature/student_mean")
_WIDTH = 80  # columns of a line; to fit, speed is dropped first, then other values except accuracy
_REFRESH = 0.25  # seconds between updates of the bar


class Display:
    """Shows the progress of a list of learners.

    Epochs are logged as INFO messages of the logger "kdbench", so they are in train.log too. On a
    terminal, console messages between ``start`` and ``close`` are redirected around the bar, so
    logging must be set up before. ``with display.start(step): ...`` closes it, and
    ``with display: ...`` starts at step 0.

    Args:
        epochs: epochs of the whole run, >= 1.
        steps_per_epoch: >= 1.
        names: of the learners, by run key.
        stream: where the bar is drawn if it is a terminal; None: standard error.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        names: Mapping[str, str],
        stream: TextIO | None = None,
    ) -> None:
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.names = dict(names)
        self.stream = stream if stream is not None else sys.stderr
        self._bar: tqdm | None = None
        self._redirect: AbstractContextManager = nullcontext()
        self._accuracy = ""
        self._started = False

    def __enter__(self) -> Self:
        return self if self._started else self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, step: int = 0) -> Self:
        """Starts at ``step`` of the whole run: 0, or where a resumed run continues."""
        self._started = True
        self._first = self._step = step
        self._begin = self._epoch_begin = self._step_end = self._drawn = time.monotonic()
        self._images = 0
        if self.stream.isatty():
            self._open_bar()
        return self

    def step(self, images: int, loss: Callable[[], float]) -> None:
        """Records a finished step.

        Args:
            images: size of its batch.
            loss: returns the loss; called only when the bar is drawn, because reading a value
                synchronizes with the accelerator.
        """
        self._step += 1
        self._images += images
        self._step_end = time.monotonic()
        if self._bar is not None and self._step_end - self._drawn >= _REFRESH:
            self._draw(self._bar, loss())

    def epoch(self, rows: Mapping[str, Mapping[str, float]]) -> None:
        """Records a finished epoch: ``rows`` has the metrics of each active learner, by run key."""
        for key, row in rows.items():
            prefix = f"{self.names[key]}  " if len(self.names) > 1 else ""
            logger.info("%s%s", prefix, self._describe(row, len(prefix)), extra={"run": key})
        self._accuracy = _accuracy(rows)
        self._images = 0
        self._epoch_begin = self._step_end = time.monotonic()

    def note(self, text: str, key: str) -> None:
        """Logs a warning about one learner."""
        logger.warning("%s", text, extra={"run": key})

    def close(self) -> None:
        """Removes the bar; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._redirect.__exit__(None, None, None)

    def _open_bar(self) -> None:
        self._bar = tqdm(
            total=self.epochs * self.steps_per_epoch,
            initial=self._step,
            desc=self._position(self._step),
            file=self.stream,
            dynamic_ncols=True,
            leave=False,
            mininterval=0,  # step() decides when to draw
            bar_format="{desc}  {percentage:3.0f} % |{bar}|",
        )
        # Only loggers with a console handler to replace: another handler would print lines twice.
        loggers = [owner for owner in (logging.getLogger(), logger) if _has_console(owner)]
        self._redirect = logging_redirect_tqdm(loggers)
        self._redirect.__enter__()

    def _draw(self, bar: tqdm, loss: float) -> None:
        parts = [self._position(self._step - 1), f"loss {loss:.3f}", self._accuracy]
        parts += [self._speed(), f"left {self._left()}"]
        bar.set_description_str("  ".join(part for part in parts if part), refresh=False)
        bar.update(self._step - bar.n)
        self._drawn = time.monotonic()  # reading the loss may be slow

    def _position(self, step: int) -> str:
        """The epoch of a 0-based step, and the number of learners if there are several."""
        epoch = min(step // self.steps_per_epoch + 1, self.epochs)
        count = f"  {len(self.names)} learners" if len(self.names) > 1 else ""
        return f"epoch {epoch}/{self.epochs}{count}"

    def _describe(self, row: Mapping[str, float], used: int) -> str:
        """The line of an epoch, short enough to fit after ``used`` columns."""
        parts = {"epoch": f"epoch {int(row['epoch'])}/{self.epochs}"}
        lines = of_line()  # missing values are left out
        parts |= {key: text.format(row[key]) for key, text in lines.items() if key in row}
        means = [f"{row[key]:.2f}" for key in _TEMPERATURES if key in row]
        if means:  # of teacher and student, once if they are equal
            parts["temperature"] = f"T {'/'.join(dict.fromkeys(means))}"
        parts |= {"speed": self._speed(), "left": f"left {self._left()}"}
        rest = [name for name in reversed(lines) if name not in ACCURACIES]
        for name in ("speed", *rest, "temperature"):
            if used + len("  ".join(parts.values())) > _WIDTH:
                parts.pop(name, None)
        return "  ".join(parts.values())

    def _speed(self) -> str:
        """Training speed, from the start of the epoch to the end of its last step."""
        seconds = max(self._step_end - self._epoch_begin, 1e-9)
        return f"{self._images / seconds:.0f} img/s"

    def _left(self) -> str:
        """Estimated time left, from the average pace of this process, evaluations included."""
        done = max(self._step - self._first, 1)
        rest = self.epochs * self.steps_per_epoch - self._step
        seconds = (time.monotonic() - self._begin) / done * rest
        return clock(seconds)


def _accuracy(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Range of the learners' last accuracies, on the validation split if there is one."""
    for key in ACCURACIES:
        values = [row[key] for row in rows.values() if key in row]
        if values:
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            split = key.split("/")[0]
            return f"{split} {low} %" if low == high else f"{split} {low}-{high} %"
    return ""


def _has_console(owner: logging.Logger) -> bool:
    return any(
        isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        for handler in owner.handlers
    )
