"""Results of an evaluation: metrics of a whole split, accuracy per class, and confusions."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.columns import align_columns
from kdbench.files import write_atomic
from kdbench.records.metric import of_split

FILE = "evaluation.json"
CONFUSION = "confusion.csv"  # rows: true class; columns: predicted class


class ClassResult(NamedTuple):
    """Result on one class.

    Attributes:
        name: of the class.
        samples: its number in the split.
        top1: percent; None if there are no samples.
    """

    name: str
    samples: int
    top1: float | None


class Confusion(NamedTuple):
    """A pair of confused classes.

    Attributes:
        true: name of the true class.
        chosen: name of the predicted class.
        times: number of samples.
        share: percent of the samples of the true class.
    """

    true: str
    chosen: str
    times: int
    share: float


@dataclass(frozen=True)
class Evaluation:
    """A network on a split of a dataset.

    Attributes:
        network: "arch", "weights" (file), "weights_digest", and "run" if it belongs to one.
        teacher: the same for the network that it was compared with, and its "top1", percent; None
            without one.
        teacher_missing: why it was not compared, although the network has a teacher.
        dataset: "name", "digest", "split", "samples", and "trained_on": whether the network was
            trained on them, None if unknown.
        metrics: names and units as in ``engine/metrics.py``.
        recorded: these metrics in the record of the run; None if it has none.
        class_names: K names.
        confusion: [K][K] number of samples by true class (row) and predicted class (column).
        circumstances: precision, device, threads, command, environment.
    """

    network: Mapping[str, Any]
    teacher: Mapping[str, Any] | None
    teacher_missing: str | None
    dataset: Mapping[str, Any]
    metrics: Mapping[str, float]
    recorded: Mapping[str, float] | None
    class_names: Sequence[str]
    confusion: Sequence[Sequence[int]]
    circumstances: Mapping[str, Any]

    def class_results(self) -> list[ClassResult]:
        """One per class, in label order."""
        return [
            ClassResult(name, sum(row), 100 * row[label] / sum(row) if sum(row) else None)
            for label, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True))
        ]

    def frequent_confusions(self) -> list[Confusion]:
        """All confusions, the most frequent first."""
        names = self.class_names
        found = [
            Confusion(names[true], names[chosen], count, 100 * count / sum(row))
            for true, row in enumerate(self.confusion)
            for chosen, count in enumerate(row)
            if count and chosen != true
        ]
        return sorted(found, key=lambda confusion: -confusion.times)

    def deviations(self) -> dict[str, tuple[float, float]]:
        """Metrics that differ from the record: (recorded, found)."""
        return {
            name: (value, self.metrics[name])
            for name, value in (self.recorded or {}).items()
            if name in self.metrics and self.metrics[name] != value
        }

    def describe_split(self) -> str:
        """The split, in words."""
        words = f"{self.dataset['split']} split, {self.dataset['samples']:,} images"
        return f"{words} that it was trained on" if self.dataset["trained_on"] else words

    def write(self, folder: Path) -> None:
        """Writes ``evaluation.json`` and ``confusion.csv``."""
        content = asdict(self)
        del content["class_names"], content["confusion"]
        content["classes"] = [result._asdict() for result in self.class_results()]
        write_atomic(folder / FILE, json.dumps(content, indent=1).encode())
        text = io.StringIO()
        names = [_cell(name) for name in self.class_names]
        rows = [[name, *row] for name, row in zip(names, self.confusion, strict=True)]
        csv.writer(text, lineterminator="\n").writerows([["true \\ chosen", *names], *rows])
        write_atomic(folder / CONFUSION, text.getvalue().encode())

    def describe(self, count: int = 5) -> str:
        """For the terminal.

        Args:
            count: number of worst classes and of most frequent confusions.
        """
        known = [result for result in self.class_results() if result.top1 is not None]
        worst = sorted(known, key=lambda result: result.top1 or 0.0)[:count]
        classes = [(name, f"{samples:,}", f"{top1:.2f} %") for name, samples, top1 in worst]
        confusions = [
            (true, chosen, f"{times:,}", f"{share:.2f} %")
            for true, chosen, times, share in self.frequent_confusions()[:count]
        ]
        return "\n\n".join(
            [
                "\n".join(self._head()),
                align_columns([("worst classes", "samples", "top-1"), *classes]),
                align_columns([("most confused", "with", "samples", "of the class"), *confusions]),
            ]
        )

    def _head(self) -> list[str]:
        data, how = self.dataset, self.circumstances
        lines = [
            f"{self.network['arch']}, {self.network['weights']}",
            f"{data['name']}, {self.describe_split()}, {how['precision']} on {how['device']}",
            self._format(needs_teacher=False),
        ]
        if self.teacher is not None:
            who = f"teacher {self.teacher['arch']} (top-1 {self.teacher['top1']:.2f} %)"
            lines.append(f"{who}: {self._format(needs_teacher=True)}")
        elif self.teacher_missing is not None:
            lines.append(f"not compared with its teacher: {self.teacher_missing}")
        if self.recorded is not None:
            lines += [
                f"{name} is {found!r}, but {recorded!r} in the record: device, threads or "
                f"versions differ"
                for name, (recorded, found) in self.deviations().items()
            ] or ["the metrics agree with the record"]
        return lines

    def _format(self, needs_teacher: bool) -> str:
        known = of_split(needs_teacher).items()
        return "  ".join(m.write_short(self.metrics[n]) for n, m in known if n in self.metrics)


def _cell(name: str) -> str:
    """Escapes a class name that a spreadsheet would run as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
