"""The record of a run: tables are built from these files alone."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from kdbench.digest import safetensors_digest
from kdbench.errors import CheckpointError, ResourceError
from kdbench.files import write_atomic
from kdbench.records.identity import TEACHER
from kdbench.records.metric import choosable

FILE = "record.json"
# Beside the record:
WEIGHTS = "student.safetensors"  # the final weights
METRICS = "metrics.csv"  # one row per epoch
TIMINGS = "timings.csv"
REPETITION = "repetition.json"  # only of a repetition: the original run and the verdict

# Values of ``setting``; the first two are published.
PUBLISHED, PUBLISHED_DEFAULT = "published", "published_default"
CHANGED, DEFAULT = "changed", "default"

log = logging.getLogger(__name__)


class NewerRecordError(CheckpointError):
    """A valid record of a newer kdbench, which must not be overwritten."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, written once at its end.

    Attributes (self-explanatory ones are omitted):
        run_key: SHA-256 of everything that determines the result.
        status: "done" or "failed".
        reason: of a failure, in one line.
        method, temperature, objective: names in ``conf/``.
        protocol: "paper" (test accuracy each epoch) or "strict" (test read once).
        top1_last: test accuracy of the last epoch, percent: the result.
        top1_best: best test accuracy of all epochs, picked on the test set; None under "strict".
        val_top1_last, val_top1_best: the same on the validation split; None under "paper".
        test: all test metrics of the last epoch, names as in ``engine/metrics.py``.
        test_samples: images of the test split.
        convergence: "aulc", mean accuracy over the epochs in percent, and "epochs_to", accuracy in
            percent -> epochs needed (None: not reached), on the split evaluated in each epoch.
        teacher_top1: measured here, percent; None without a teacher.
        weights_digest: SHA-256 over the sorted final state dict of the student.
        metrics_digest: SHA-256 of metrics.csv.
        config: resolved, as it determined the run.
        seconds: wall time of training and evaluation of the whole cohort while this run was in it,
            over all attempts, each up to its last checkpoint.
        own_seconds: of these, the run's own steps, evaluation and checkpoints.
        shared_seconds: data loading and the teacher's forward passes, counted in full, as for a
            run by itself. Its parts during training are ``data_seconds`` and ``teacher_seconds``.
        part_seconds: own seconds and an equal share of the shared ones: summed over a cohort, its
            wall time.
        evaluation_seconds: of evaluation, own and shared.
        images_per_s: training images of the last epoch over the seconds that the run would take by
            itself.
        peak_memory_mb: of the process or its GPU, for the whole cohort.
        teacher_memo: None if the teacher's logits were computed for every batch; else "mode",
            "asked" and "remembered" (numbers of logits requested and found in the cache in the
            last attempt, by all runs of the cohort), "megabytes" (of the full cache). Cached
            logits may differ from fresh ones in the last bits.
        teacher_config: section ``teacher`` of the resolved config: where the weights came from and,
            if they were trained here, how. None without a teacher.
        initial_digest: SHA-256 of the file of ``student.weights``; None if the student started
            from its seed.
        best_digest: SHA-256 of ``checkpoint/best.safetensors``.
        setting: "published" (for this dataset, teacher, student and method), "published_default"
            (published with the method's default values), "changed" (differs from a published
            setting in some keys) or "default" (none is published; the method's default values).
            None for teachers, or if unknown.
        setting_differs: key -> [value of the published or default setting, value of the run].
        role: "student", or "teacher" if the run trained the teacher of another one.
        setting_source: source of the published setting; None without one.
        warnings: valid but probably unintended settings and results, one sentence each, as in the
            log.
        environment: versions, git commit and dirty flag, machine.
    """

    run_key: str
    status: str
    reason: str | None
    dataset: str
    pair: str
    teacher: str | None
    student: str
    method: str
    temperature: str
    objective: str
    seed: int
    protocol: str
    precision: str
    epochs: int
    epochs_done: int
    top1_last: float | None
    top1_best: float | None
    val_top1_last: float | None
    val_top1_best: float | None
    test: dict[str, float]
    convergence: dict[str, Any]
    teacher_top1: float | None
    teacher_digest: str | None
    dataset_digest: str
    weights_digest: str | None
    metrics_digest: str | None
    parameters: int
    config: dict[str, Any]
    # From here on: circumstances, in which runs with the same key may differ.
    seconds: float
    images_per_s: float | None
    peak_memory_mb: float
    attempts: int
    cohort_size: int
    teacher_memo: dict[str, Any] | None
    # None also in records of older versions:
    own_seconds: float | None = None
    shared_seconds: float | None = None
    part_seconds: float | None = None
    data_seconds: float | None = None
    teacher_seconds: float | None = None
    evaluation_seconds: float | None = None
    teacher_config: dict[str, Any] | None = None
    test_samples: int | None = None
    initial_digest: str | None = None
    best_digest: str | None = None
    setting: str | None = None
    setting_differs: dict[str, list[Any]] | None = None
    role: str = "student"
    setting_source: str | None = None
    warnings: list[str] = field(default_factory=list)  # empty there
    device: str
    threads: int
    started: str
    finished: str
    command: list[str]
    environment: dict[str, Any]

    @property
    def is_of_teacher(self) -> bool:
        """Whether it trained the teacher of another run, which is in no table of students."""
        return TEACHER in (self.role, self.method)  # the method in records before 0.2

    @property
    def alone_seconds(self) -> float | None:
        """Seconds that the run would take by itself; None if not measured."""
        if self.own_seconds is None or self.shared_seconds is None:
            return self.seconds if self.cohort_size == 1 else None
        return self.own_seconds + self.shared_seconds

    @property
    def has_published_setting(self) -> bool:
        """Whether its result may stand beside published ones."""
        return self.setting in (PUBLISHED, PUBLISHED_DEFAULT)

    @property
    def spent_seconds(self) -> float:
        """Its share of the wall time of its cohort."""
        return self.seconds / self.cohort_size if self.part_seconds is None else self.part_seconds

    def summary(self) -> str:
        """The run in one line."""
        names = f"{self.dataset} {self.pair} {self.method} seed {self.seed}"
        if self.temperature not in (self.method, "none"):
            names = f"{self.dataset} {self.pair} {self.method}, {self.temperature} seed {self.seed}"
        if self.top1_last is None:
            return f"{names}: {self.status}, {self.reason}"
        return (
            f"{names}: top-1 {self.top1_last:.2f} % after epoch {self.epochs_done}, "
            f"{self.seconds:.0f} s{self._shared()}"
        )

    def _shared(self) -> str:
        if self.cohort_size == 1 or self.alone_seconds is None:
            return ""
        return f" with its cohort, {self.alone_seconds:.0f} s alone"

    def numbers(self) -> dict[str, float]:
        """Flat numbers to compare runs by: accuracies, test metrics, convergence, cost.

        Metrics are named as in ``metrics.csv`` ("test/nll"); the number of epochs to 60 % is
        "convergence/epochs_to_60". Numbers that were not measured or reached are omitted.
        """
        found = {name: getattr(self, name) for name in (*_FACTS, *choosable()) if "." not in name}
        found |= {f"test/{name}": value for name, value in self.test.items()}
        found["convergence/aulc"] = self.convergence["aulc"]
        levels = self.convergence["epochs_to"].items()
        found |= {f"convergence/epochs_to_{level}": epochs for level, epochs in levels}
        return {name: value for name, value in found.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Writes ``record.json`` with a digest of its own content."""
        content = asdict(self)
        document = {"digest": _digest(content), **content}
        write_atomic(folder / FILE, json.dumps(document, indent=1).encode())


_FACTS = ("teacher_top1", "epochs_done", "parameters")


def read_record(folder: Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        FileNotFoundError: there is none.
        ResourceError: it is not readable.
        NewerRecordError: it has fields unknown to this version.
        CheckpointError: it is damaged or from an older version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        digest = content.pop("digest")
    except RecursionError as error:
        raise CheckpointError(
            f"{path} is damaged: nested too deeply; remove it to repeat the run"
        ) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it to repeat the run") from error
    if digest != _digest(content):
        raise CheckpointError(
            f"{path} is damaged: its content does not match its digest; remove it to repeat the run"
        )
    unknown = sorted(set(content) - {each.name for each in fields(RunRecord)})
    if unknown:
        raise NewerRecordError(
            f"{path} was written by a newer kdbench: this version does not know "
            f"{', '.join(unknown)}. Use that version, or another paths.outputs"
        )
    try:
        record = RunRecord(**content)
    except TypeError as error:
        raise CheckpointError(f"{path} is from another version of kdbench: {error}") from error
    problem = next(_wrong_types(record), None)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; remove it to repeat the run")
    return record


def _wrong_types(record: RunRecord) -> Iterator[str]:
    """One sentence per field with a wrong type, as other programs may write records too."""
    for name, (kinds, inner) in _TYPES.items():
        value = getattr(record, name)
        if not _is_of(value, kinds):
            yield f"{name} is {value!r:.60}"
        elif inner is not None and isinstance(value, dict):
            yield from (
                f"{name}.{key} is {each!r:.60}"
                for key, each in value.items()
                if not _is_of(each, inner)
            )


def _is_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool) and bool not in kinds:
        return False
    # JSON allows NaN and integers of any size; no field has such a value.
    if isinstance(value, int | float) and not (abs(value) < 2**64):
        return False
    return isinstance(value, kinds)


def _kinds(hint: Any) -> tuple[tuple[type, ...], tuple[type, ...] | None]:
    """The classes of a field, and for ``dict[str, float] | None`` those of its values."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    inner = [get_args(part)[1] for part in parts if get_origin(part) is dict]
    plain = tuple(get_origin(part) or part for part in parts)
    if not all(isinstance(kind, type) for kind in plain):  # Any
        return (object,), None
    kinds = (*plain, int) if float in plain else plain
    return kinds, (float, int) if inner == [float] else None


_TYPES = {name: _kinds(hint) for name, hint in get_type_hints(RunRecord).items()}


def find_finished(folder: Path, key: str) -> RunRecord | None:
    """The record of a finished run; None if it has to be trained.

    Finished means a valid record with this run key and status "done", and its final weights: an
    existing folder means nothing.

    Args:
        folder: of the run.
        key: its run key.

    Raises:
        NewerRecordError: training would replace the record of a newer version.
        CheckpointError: the weights are not those of the record, and must not be overwritten
            silently.
        ResourceError: the record is not readable.
    """
    if not (folder / FILE).is_file():
        return None
    try:
        record = read_record(folder)
    except FileNotFoundError:
        return None
    except NewerRecordError:
        raise
    except CheckpointError as error:
        log.warning("%s", error)
        return None
    done = record.status == "done" and record.run_key == key
    return record if done and _has_weights(folder / WEIGHTS, record.weights_digest) else None


def _has_weights(path: Path, digest: str | None) -> bool:
    """Whether the final weights exist and are those of the record; reads them once."""
    remedy = "put the right file back, or remove it to train the run again"
    try:
        found = safetensors_digest(path)
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {remedy}") from error
    if found != digest:
        raise CheckpointError(
            f"{path} is damaged: its weights should have the digest {digest}, found {found}; "
            f"{remedy}"
        )
    return True


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
