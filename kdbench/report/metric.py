"""What a table can show: numbers of a record, with their names, units and directions."""

import math
from dataclasses import dataclass
from difflib import get_close_matches

from kdbench.errors import ConfigError
from kdbench.records.convergence import LEVELS
from kdbench.records.record import RunRecord
from kdbench.report.select import look_up


@dataclass(frozen=True)
class Metric:
    """A number of a record.

    Attributes:
        name: path in the record.
        label: for people.
        unit: "%", "nats", ...; empty where there is none.
        digits: after the decimal point.
        larger_is_better: its direction.
    """

    name: str
    label: str
    unit: str
    digits: int
    larger_is_better: bool

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def is_accuracy(self) -> bool:
        """Whether it stands beside published numbers and the teacher's accuracy."""
        return self.name in ("top1_last", "top1_best")

    def value(self, record: RunRecord) -> float | None:
        """What a run has; None where it has none, or one that is not finite."""
        found = look_up(record, self.name)
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    def write(self, value: float, sign: bool = False) -> str:
        """A value with the metric's digits."""
        return f"{value:{'+' if sign else ''}.{self.digits}f}"


_PICKED = "picked on the test set"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1_last", "top-1 of the last epoch", "%", 2, True),
        Metric("top1_best", f"top-1 of the best epoch ({_PICKED})", "%", 2, True),
        Metric("val_top1_last", "validation top-1 of the last epoch", "%", 2, True),
        Metric("val_top1_best", "validation top-1 of the best epoch", "%", 2, True),
        Metric("test.top1", "top-1 on test", "%", 2, True),
        Metric("test.top5", "top-5 on test", "%", 2, True),
        Metric("test.nll", "negative log-likelihood", "nats", 4, False),
        Metric("test.ece", "expected calibration error", "%", 2, False),
        Metric("test.agreement", "agreement with the teacher", "%", 2, True),
        Metric("test.teacher_kl", "KL to the teacher", "nats", 4, False),
        Metric("test.logit_correlation", "logit correlation with the teacher", "", 4, True),
        Metric("convergence.aulc", "mean accuracy over the epochs", "%", 2, True),
        Metric("alone_seconds", "time of a run alone", "s", 1, False),
        Metric("own_seconds", "own time: steps, evaluation", "s", 1, False),
        Metric("shared_seconds", "shared time: data, teacher", "s", 1, False),
        Metric("part_seconds", "time with its part of the shared", "s", 1, False),
        Metric("teacher_seconds", "time of the teacher", "s", 1, False),
        Metric("evaluation_seconds", "time of evaluation", "s", 1, False),
        Metric("seconds", "wall time of its cohort", "s", 1, False),
        Metric("images_per_s", "training speed alone", "images/s", 0, True),
        Metric("peak_memory_mb", "peak memory of its cohort", "MB", 0, False),
    )
}
_EPOCHS_TO = "convergence.epochs_to."


def find_metric(name: str) -> Metric:
    """The metric of a name: one of ``METRICS``, or "epochs_to.LEVEL" with a level in percent.

    "test." and "convergence." may be left out.

    Raises:
        ConfigError: there is none of that name.
    """
    for path in (name, f"test.{name}", f"convergence.{name}"):
        if path in METRICS:
            return METRICS[path]
        level = path.removeprefix(_EPOCHS_TO)
        if level != path and level in map(str, LEVELS):
            return Metric(path, f"time to {level} %", "epochs", 1, False)
    near = get_close_matches(name, [*METRICS, *(path.split(".")[-1] for path in METRICS)], 1)
    raise ConfigError(
        f"--metric: {name!r} is not known{f', is it {near[0]!r}?' if near else ''}; allowed are "
        f"{', '.join(METRICS)} and epochs_to.LEVEL with a level of {', '.join(map(str, LEVELS))}"
    )
