"""What one run says about itself. Tables are built from these files and from nothing else."""

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
METRICS = "metrics.csv"  # one row an epoch
TIMINGS = "timings.csv"
REPETITION = "repetition.json"  # only where the run repeats another one: which, and the verdict

# What ``setting`` says of a run; the first two are published ones.
PUBLISHED, PUBLISHED_DEFAULT = "published", "published_default"
CHANGED, DEFAULT = "changed", "default"

log = logging.getLogger(__name__)


class NewerRecordError(CheckpointError):
    """A sound record that a newer kdbench wrote: nobody may train over it."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, written once at its end.

    Attributes (those that explain themselves are left out):
        run_key: SHA-256 of everything that determines the result.
        status: "done" or "failed".
        reason: of a failure, in one line.
        method, temperature, objective: names in ``conf/``.
        protocol: "paper" (test accuracy each epoch) or "strict" (test read once).
        top1_last: test accuracy of the last epoch, percent: the result.
        top1_best: best test accuracy of all epochs, picked on the test set; None under "strict".
        val_top1_last, val_top1_best: the same on the validation split; None under "paper".
        test: all test metrics of the last epoch, names as in ``engine/metrics.py``.
        test_samples: images that these were measured on.
        convergence: "aulc", mean accuracy over the epochs in percent, and "epochs_to", accuracy in
            percent -> epochs needed (None: not reached), on the split that is evaluated each epoch.
        teacher_top1: measured here, percent; None if nothing was distilled.
        weights_digest: SHA-256 over the sorted final state dict of the student.
        metrics_digest: SHA-256 of metrics.csv.
        config: resolved, as it determined the run.
        seconds: wall time of training and evaluation of the whole cohort, while this run was in
            it, in all attempts up to their last checkpoint.
        own_seconds: of these, the run's own steps, evaluation and checkpoints.
        shared_seconds: reading batches and, where it has one, the teacher's answers: in full, as
            the run would need them alone. Of this, ``data_seconds`` and ``teacher_seconds`` are
            spent while training.
        part_seconds: own and an equal part of the shared ones: those of a cohort add up to its
            wall time.
        evaluation_seconds: own and shared, of evaluation.
        images_per_s: training images of the last epoch over the seconds that they would take this
            run alone.
        peak_memory_mb: of the process, or its GPU: of the whole cohort.
        teacher_memo: None where every answer of the teacher was computed for its batch; else
            "mode", "asked" and "remembered" (answers of the last attempt, all runs of its cohort
            together), "megabytes" (of the full memo). Remembered answers may differ from fresh
            ones in the last bits.
        teacher_config: section ``teacher`` of the resolved config: where the weights came from and,
            if they were trained here, how. None if nothing was distilled.
        initial_digest: SHA-256 of the file of ``student.weights``; None where the student started
            from its seed.
        best_digest: SHA-256 of ``checkpoint/best.safetensors``.
        setting: "published" (for this dataset, teacher, student and method), "published_default"
            (somebody ran them with the method's default values), "changed" (some keys of a
            published setting differ) or "default" (nobody published one; the method's default).
            None of teachers, and where it is not known.
        setting_differs: key -> [what the four choices alone compose to, the run's own value].
        role: "student", or "teacher" of a run that trained the teacher of another one.
        setting_source: who published the setting; None where nobody did.
        warnings: what was allowed and is probably not meant, one sentence each, as in the log.
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
    # From here on: circumstances. Two runs of one key may differ in them.
    seconds: float
    images_per_s: float | None
    peak_memory_mb: float
    attempts: int
    cohort_size: int
    teacher_memo: dict[str, Any] | None
    # None also in records of versions that did not keep them:
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
        """What the run would take by itself; None where it was not measured."""
        if self.own_seconds is None or self.shared_seconds is None:
            return self.seconds if self.cohort_size == 1 else None
        return self.own_seconds + self.shared_seconds

    @property
    def has_published_setting(self) -> bool:
        """Whether its result may stand beside published ones."""
        return self.setting in (PUBLISHED, PUBLISHED_DEFAULT)

    @property
    def spent_seconds(self) -> float:
        """Its part of the wall time of its cohort."""
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
        """What runs are compared by, flat: accuracies, test metrics, convergence, cost.

        The metrics have their names of ``metrics.csv`` ("test/nll"); the number of epochs until
        60 % is "convergence/epochs_to_60". What was not measured or reached is left out.
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
        ResourceError: it may not be read.
        NewerRecordError: it has fields that this version does not know.
        CheckpointError: it is damaged, or of an older version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        digest = content.pop("digest")
    except RecursionError as error:
        raise CheckpointError(
            f"{path} is damaged: brackets without end; remove it to repeat the run"
        ) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it to repeat the run") from error
    if digest != _digest(content):
        raise CheckpointError(
            f"{path} is damaged: its content does not have the digest that it names; remove it to "
            f"repeat the run"
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
        raise CheckpointError(f"{path} is of another version of kdbench: {error}") from error
    problem = next(_wrong_types(record), None)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; remove it to repeat the run")
    return record


def _wrong_types(record: RunRecord) -> Iterator[str]:
    """One sentence for each field that has not its type: other programs write records too."""
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
    # JSON knows NaN and whole numbers of any length; no field can have them.
    if isinstance(value, int | float) and not (abs(value) < 2**64):
        return False
    return isinstance(value, kinds)


def _kinds(hint: Any) -> tuple[tuple[type, ...], tuple[type, ...] | None]:
    """The classes of a field, and those of the values of ``dict[str, float] | None``."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    inner = [get_args(part)[1] for part in parts if get_origin(part) is dict]
    plain = tuple(get_origin(part) or part for part in parts)
    if not all(isinstance(kind, type) for kind in plain):  # Any
        return (object,), None
    kinds = (*plain, int) if float in plain else plain
    return kinds, (float, int) if inner == [float] else None


_TYPES = {name: _kinds(hint) for name, hint in get_type_hints(RunRecord).items()}


def find_finished(folder: Path, key: str) -> RunRecord | None:
    """The record of a run that is done; None where it has to be trained.

    Done means a sound record of this very run, with the final weights beside it: a folder that
    exists says nothing.

    Args:
        folder: of the run.
        key: its run key.

    Raises:
        NewerRecordError: training would replace the record of a newer version.
        CheckpointError: the weights are not those of the record; nobody may train over that
            without being told to.
        ResourceError: the record may not be read.
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
    """Whether the final weights are there; reading them once is all that it costs."""
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
