"""Comparison of a run with its repetition: the numbers, and the circumstances that changed."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.digest import file_digest
from kdbench.files import write_atomic
from kdbench.records.collect import RunFolder
from kdbench.records.differences import Difference, find_differences
from kdbench.records.record import METRICS, REPETITION, RunRecord

IDENTICAL, WITHIN, DIFFERENT = "bit-identical", "within tolerance", "different"

# In the end, another summation order (threads, device, versions) changes a training about as much
# as another seed. The final training loss of two seeds of `make demo` differs by 3 %, that of one
# seed with one and two threads by 2.5 %; another tau changes it by much more.
LOSS_TOLERANCE = 0.05  # relative

_LOSS = "train/loss"


@dataclass(frozen=True)
class Repetition:
    """A run and its repetition, compared.

    Attributes:
        original: folder of the run.
        verdict: IDENTICAL (weights and all metrics), WITHIN (the tolerances) or DIFFERENT.
        top1: (original, repetition) test accuracy of the last epoch, percent.
        tolerance: allowed difference of these, percentage points.
        loss: (original, repetition) training loss of the last epoch; None if the metrics.csv of
            the original is missing or changed.
        changes: circumstances that differ.
    """

    original: str
    verdict: str
    top1: tuple[float, float]
    tolerance: float
    loss: tuple[float, float] | None
    changes: list[Difference]

    def describe(self) -> str:
        """For the terminal."""
        before, after = self.top1
        lines = [
            self.verdict,
            f"  top-1 {before:.2f} % and {after:.2f} %: differ by {abs(after - before):.2f} "
            f"points, tolerance {self.tolerance:.2f}",
        ]
        if self.loss is None:
            lines.append("  training loss not compared: metrics.csv of the run missing or changed")
        else:
            lines.append(
                f"  training loss {self.loss[0]:.4g} and {self.loss[1]:.4g}: differ by "
                f"{100 * _relative(*self.loss):.2g} %, tolerance {100 * LOSS_TOLERANCE:g} %"
            )
        lines.append("changed circumstances:" if self.changes else "same circumstances")
        return "\n".join(lines + [f"  {path}: {old} -> {new}" for path, old, new in self.changes])

    def write(self, folder: Path) -> None:
        """Writes ``repetition.json``."""
        _write(folder, {**vars(self), "changes": [change._asdict() for change in self.changes]})


def mark_repetition(folder: Path, original: Path) -> None:
    """Marks a new folder as that of a repetition."""
    _write(folder, {"original": str(original), "verdict": None})


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomic(folder / REPETITION, json.dumps(content, indent=1).encode())


def compare_runs(
    original: RunFolder, repetition: RunFolder, tolerance: float | None = None
) -> Repetition:
    """Compares two finished runs.

    Args:
        original: the run.
        repetition: its repetition, whose record has ``test_samples``.
        tolerance: percentage points of top-1. None for the standard error of the difference of two
            such accuracies on this number of images: 0.65 for 70 % of CIFAR-100's 10,000. Two
            seeds usually differ by less.
    """
    old, new = original.record, repetition.record
    assert old.top1_last is not None
    assert new.top1_last is not None
    top1 = old.top1_last, new.top1_last
    if tolerance is None:
        assert new.test_samples is not None
        tolerance = _standard_error(*top1, new.test_samples)
    rows = _intact_rows(original)
    loss = (rows[-1][_LOSS], repetition.metrics[-1][_LOSS]) if rows else None
    same_rows = all(map(_agree, rows, repetition.metrics))
    if old.weights_digest == new.weights_digest and _agree(old.test, new.test) and same_rows:
        verdict = IDENTICAL
    elif abs(top1[1] - top1[0]) <= tolerance and (not loss or _relative(*loss) <= LOSS_TOLERANCE):
        verdict = WITHIN
    else:
        verdict = DIFFERENT
    changes = find_differences(_circumstances(old), _circumstances(new))
    return Repetition(str(original.folder), verdict, top1, tolerance, loss, changes)


def _intact_rows(run: RunFolder) -> list[dict[str, float]]:
    path = run.folder / METRICS
    is_intact = path.exists() and file_digest(path) == run.record.metrics_digest
    return run.metrics if is_intact else []


def _agree(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    """Whether the common metrics are equal; a newer version may have more."""
    return all(old[name] == new[name] for name in old.keys() & new.keys())


def _relative(old: float, new: float) -> float:
    return abs(new - old) / max(abs(old), math.ulp(0.0))


def _standard_error(before: float, after: float, samples: int) -> float:
    variances = [top1 * (100 - top1) / samples for top1 in (before, after)]
    return math.sqrt(sum(variances))


def _circumstances(record: RunRecord) -> dict[str, Any]:
    """Circumstances that may change the last bits of a result, or more."""
    memo = record.teacher_memo
    return {
        "run_key": record.run_key,
        "device": record.device,
        "precision": record.precision,
        "threads": record.threads,
        "cohort_size": record.cohort_size,
        "teacher_digest": record.teacher_digest,
        "teacher_memo": None if memo is None else memo["mode"],
        **record.environment,
    }
