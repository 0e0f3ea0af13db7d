"""The content of the dashboard as plain data; ``views.py`` turns it into W&B panels.

Metrics have the names that ``WandbTracker`` uses: rows as in ``metrics.csv``,
summaries as in ``RunRecord.numbers``; labels and units are those of ``records/metric.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbench.records.convergence import LEVELS
from kdbench.records.metric import of_chart


@dataclass(frozen=True)
class DashboardView:
    """Which runs are shown, and how.

    Attributes:
        project: W&B project.
        entity: W&B user or team; may be empty.
        group_by: config columns; runs with equal values in all of them share a line.
        where: config column -> required value.
        text: Markdown at the top of the report; may be empty.
    """

    project: str
    entity: str
    group_by: Sequence[str]
    where: Mapping[str, str | int | float | bool]
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart with one line or bar per metric and group of runs.

    Attributes:
        title: of the chart.
        metrics: names.
        axis: label of the value axis, with the unit.
        kind: "curve" over epochs, or "bar" of summary values.
        spread: "stddev" over the runs of a group, or "none" if the metrics themselves form a
            band.
        x: x axis of a curve: "epoch", or "step" for points within epochs.
    """

    title: str
    metrics: tuple[str, ...]
    axis: str
    kind: str = "curve"
    spread: str = "stddev"
    x: str = "epoch"


@dataclass(frozen=True)
class Section:
    """Charts that answer one question."""

    title: str
    text: str
    charts: tuple[Chart, ...]


def _evaluated(title: str, name: str, axis: str) -> Chart:
    """A metric of the split evaluated each epoch: "test", or "val" for protocol strict."""
    return Chart(title, (f"test/{name}", f"val/{name}"), axis)


def _charts(section: str) -> tuple[Chart, ...]:
    """The curves of all metrics of a section, one chart each."""
    return tuple(
        Chart(f"{metric.label[0].upper()}{metric.label[1:]}", metric.curves, metric.axis)
        for metric in of_chart(section)
    )


def _both(name: str) -> tuple[str, ...]:
    return tuple(name.format(who) for who in ("teacher", "student"))


def _band(who: str) -> Chart:
    metrics = tuple(f"temperature/{who}_{name}" for name in ("mean", "p5", "p95"))
    return Chart(f"{who.capitalize()}: mean, 5 % and 95 %", metrics, "temperature", spread="none")


def _spread(who: str) -> Chart:
    title = f"{who.capitalize()}: standard deviation over samples"
    return Chart(title, (f"temperature/{who}_std",), "temperature")


def _bar(title: str, axis: str, *metrics: str) -> Chart:
    return Chart(title, metrics, axis, "bar")


def sections() -> tuple[Section, ...]:
    """The charts of a workspace and a report, those of ``records/metric.py`` among them."""
    return (
        Section(
            "Accuracy",
            "The last epoch is the result. The best epoch is picked on the test set, so it is "
            "optimistic; never the result.",
            (
                _evaluated("Top-1 after each epoch", "top1", "top-1 (%)"),
                _evaluated(
                    "Best top-1 so far, optimistic on the test set", "top1_best", "top-1 (%)"
                ),
                _bar("Last epoch: the result", "top-1 (%)", "top1_last"),
                _bar("Best epoch, picked on the test set", "top-1 (%)", "top1_best"),
                Chart("Top-1 on augmented training batches", ("train/top1",), "top-1 (%)"),
                Chart("Training loss", ("train/loss",), "loss"),
                Chart("Loss of single batches", ("batch/loss",), "loss", x="step"),
            ),
        ),
        Section(
            "Convergence",
            "Whether a strategy converges faster, not just to a better result.",
            (
                _bar("Area under the learning curve", "mean top-1 (%)", "convergence/aulc"),
                _bar(
                    "Epochs until an accuracy is reached, in percent",
                    "epochs",
                    *(f"convergence/epochs_to_{level}" for level in LEVELS),
                ),
            ),
        ),
        Section(
            "Temperature",
            "Temperatures of the samples in each epoch.",
            (
                Chart("Teacher and student", _both("temperature/{}_mean"), "temperature"),
                Chart(
                    "Teacher and student, single batches",
                    _both("batch/temperature_{}_mean"),
                    "temperature",
                    x="step",
                ),
                *(_band("teacher"), _band("student"), _spread("teacher"), _spread("student")),
            ),
        ),
        Section(
            "Agreement with the teacher",
            "How close the student is to its teacher, and how well it is calibrated.",
            _charts("distillation"),
        ),
        Section(
            "Cost",
            "Time on the machine of the run; a run alone would take own plus shared time.",
            _charts("cost"),
        ),
    )
