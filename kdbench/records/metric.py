"""Every number that people are shown of a run: name, label, unit, digits, and where it is shown.

One table for all who show numbers: records, tables, pages, W&B, TensorBoard and the terminal.
A further metric of a split needs a line here, and in ``engine/metrics.py`` the code that computes
it.

A number has two names: its path in ``record.json`` ("test.nll"), and the columns of
``metrics.csv`` and ``timings.csv`` that are its curve ("test/nll"), which are its names in W&B and
TensorBoard too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.errors import ConfigError
from kdbench.records.convergence import LEVELS
from kdbench.words import nearest

# The first part of a column's name: what it is measured on, or what kind of number it is.
KINDS = ("train", "val", "test", "temperature", "optim", "perf")
BATCH = "batch"  # the same of a single batch, between epochs
# Accuracy of the split by which the best epoch is picked: "val" where there is one.
ACCURACIES = ("val/top1", "test/top1")


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Attributes:
        name: path in the record; of a number that is only a curve, its column.
        label: what it is, for people.
        unit: "%", "nats", ...; empty where there is none.
        digits: after the decimal point.
        larger_is_better: its direction.
        curves: columns of ``metrics.csv`` and ``timings.csv``; empty where there are none.
        in_record: whether it is a number of the record, which tables can show.
        short: its name in a line of ``kdbench-evaluate``; empty leaves it out there.
        needs_teacher: whether it compares the student with its teacher.
        page: section of a report that has a column for it: "distillation" or "cost".
        chart: section of the dashboards that has a chart of its curves: "distillation" or "cost".
        line: how the line of an epoch in the terminal has it, such as "loss {:.3f}", by column.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 2
    larger_is_better: bool = True
    curves: tuple[str, ...] = ()
    in_record: bool = True
    short: str = ""
    needs_teacher: bool = False
    page: str = ""
    chart: str = ""
    line: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def axis(self) -> str:
        """What the values of a chart are."""
        return self.unit or self.label

    @property
    def better(self) -> str:
        """Which direction is good, in words."""
        return "higher is better" if self.larger_is_better else "lower is better"

    @property
    def is_accuracy(self) -> bool:
        """Whether it stands beside published numbers and the teacher's accuracy."""
        return self.name in ("top1_last", "top1_best")

    def value(self, record: object) -> float | None:
        """What a ``RunRecord`` has; None where it has none, or one that is not finite."""
        first, *rest = self.name.split(".")
        found = getattr(record, first, None)
        for key in rest:
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None

    def write(self, value: float, sign: bool = False) -> str:
        """A value with the metric's digits."""
        return f"{value:{'+' if sign else ''}.{self.digits}f}"

    def write_short(self, value: float) -> str:
        """Name and value in a line: "top-1 71.06 %", "NLL 1.2345"."""
        return f"{self.short} {self.write(value)}{' %' if self.unit == '%' else ''}"


def _of_split(name: str, label: str, short: str, unit: str, **rest: Any) -> Metric:
    """A metric of ``engine.metrics.evaluate_logits``."""
    curves = (f"test/{name}", f"val/{name}")
    return Metric(f"test.{name}", label, unit, short=short, curves=curves, **rest)


def _of_time(name: str, label: str, unit: str = "s", digits: int = 1, **rest: Any) -> Metric:
    """A metric of cost."""
    found: dict[str, Any] = {"larger_is_better": False, "curves": (f"perf/{name}",), **rest}
    return Metric(name, label, unit, digits, **found)


def _curve(name: str, label: str, unit: str = "", **rest: Any) -> Metric:
    return Metric(name, label, unit, curves=(name,), in_record=False, **rest)


_LOWER: dict[str, Any] = {"digits": 4, "larger_is_better": False}
_STUDENT: dict[str, Any] = {"page": "distillation", "chart": "distillation"}
_TEACHER: dict[str, Any] = {**_STUDENT, "needs_teacher": True}
_COST: dict[str, Any] = {"page": "cost", "chart": "cost"}
_LINE = (("val/top1", "val {:.1f} %"), ("test/top1", "test {:.1f} %"))

METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1_last", "top-1 of the last epoch", "%"),
        Metric("top1_best", "top-1 of the best epoch (picked on the test set)", "%"),
        Metric("val_top1_last", "validation top-1 of the last epoch", "%"),
        Metric("val_top1_best", "validation top-1 of the best epoch", "%"),
        _of_split("top1", "top-1 on test", "top-1", "%", line=_LINE),
        _of_split("top5", "top-5 on test", "top-5", "%"),
        _of_split("nll", "negative log-likelihood", "NLL", "nats", **_LOWER, **_STUDENT),
        _of_split(
            "ece", "expected calibration error", "ECE", "%", larger_is_better=False, **_STUDENT
        ),
        _of_split("agreement", "agreement with the teacher", "agreement", "%", **_TEACHER),
        _of_split("teacher_kl", "KL to the teacher", "KL", "nats", **_LOWER, **_TEACHER),
        _of_split(
            *("logit_correlation", "logit correlation with the teacher", "logit correlation", ""),
            digits=4,
            **_TEACHER,
        ),
        Metric("convergence.aulc", "mean accuracy over the epochs", "%"),
        _of_time("alone_seconds", "time of a run alone", curves=(), page="cost"),
        _of_time("own_seconds", "own time: steps, evaluation", **_COST),
        _of_time("shared_seconds", "shared time: data, teacher", **_COST),
        _of_time("part_seconds", "time with its part of the shared"),
        _of_time("teacher_seconds", "time of the teacher"),
        _of_time("evaluation_seconds", "time of evaluation"),
        _of_time(
            "images_per_s", "training speed alone", "images/s", 0, larger_is_better=True, **_COST
        ),
        _of_time("seconds", "wall time of its cohort", **_COST),
        _of_time("peak_memory_mb", "peak memory of its cohort", "MB", 0, page="cost"),
        _curve("perf/teacher_share", "the teacher's part of training alone", chart="cost"),
        _curve("train/loss", "training loss", line=(("train/loss", "loss {:.3f}"),)),
        _curve("train/top1", "training top-1", "%", line=(("train/top1", "train {:.1f} %"),)),
    )
}
_EPOCHS_TO = "convergence.epochs_to."


def choosable() -> dict[str, Metric]:
    """Those that a table can show, by the path in the record."""
    return {name: metric for name, metric in METRICS.items() if metric.in_record}


def of_page(section: str) -> list[Metric]:
    """Those with a column in a section of a report's page, comparisons with the teacher first."""
    found = [metric for metric in METRICS.values() if metric.page == section]
    return sorted(found, key=lambda metric: not metric.needs_teacher)


def of_chart(section: str) -> list[Metric]:
    """Those with a chart in a section of the dashboards."""
    return [metric for metric in METRICS.values() if metric.chart == section]


def of_split(needs_teacher: bool) -> dict[str, Metric]:
    """Those of a split that have a short name, by their name in ``evaluate_logits``."""
    return {
        metric.name.removeprefix("test."): metric
        for metric in METRICS.values()
        if metric.short and metric.needs_teacher == needs_teacher
    }


def of_line() -> dict[str, str]:
    """Column -> how the line of an epoch has it; the accuracies, the last to be left out, last."""
    found = {column: text for metric in METRICS.values() for column, text in metric.line}
    return dict(sorted(found.items(), key=lambda item: item[0] in ACCURACIES))


def find_metric(name: str) -> Metric:
    """The metric of a name: one of ``choosable``, or "epochs_to.LEVEL" with a level in percent.

    "test." and "convergence." may be left out.

    Raises:
        ConfigError: there is none of that name.
    """
    known = choosable()
    for path in (name, f"test.{name}", f"convergence.{name}"):
        if path in known:
            return known[path]
        level = path.removeprefix(_EPOCHS_TO)
        if level != path and level in map(str, LEVELS):
            return Metric(path, f"time to {level} %", "epochs", 1, larger_is_better=False)
    near = nearest(name, [*known, *(path.split(".")[-1] for path in known)], cutoff=0.6)
    raise ConfigError(
        f"--metric: {name!r} is not known{f', is it {near[0]!r}?' if near else ''}; allowed are "
        f"{', '.join(known)} and epochs_to.LEVEL with a level of {', '.join(map(str, LEVELS))}"
    )
