"""The interface of a tracker, and the identity of the run that it follows: read this first."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kdbench.tracker.flat import Scalar, flatten


@dataclass(frozen=True)
class RunIdentity:
    """Who a run is: one learner, one folder, one curve.

    Attributes:
        run_key: SHA-256 (64 hex digits) of everything that determines the result.
        folder: existing folder of the run; a tracker writes below it and nowhere else.
        dataset, pair, method, temperature, objective: names as in ``conf/``; the method of the
            training of a teacher is "teacher".
        seed: seed of the student.
        table: name in ``conf/table`` of the table that it was trained for; None without one.
        teacher_choices: what tells teachers of one network apart, such as "weights" and "seed";
            empty without a teacher.
    """

    run_key: str
    folder: Path
    dataset: str
    pair: str
    method: str
    temperature: str
    objective: str
    seed: int
    table: str | None = None
    teacher_choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """``<table or dataset>/<pair>/<method>``: inside it, strategies and seeds differ."""
        first = self.table or self.dataset
        return "/".join(slug(part, 40) for part in (first, self.pair, self.method))

    @property
    def name(self) -> str:
        """``<method>-<temperature>-seed<k>`` as a safe slug."""
        return slug(f"{self.method}-{self.temperature}-seed{self.seed}")

    @property
    def label(self) -> str:
        """The name with a piece of the key: names of two runs may agree."""
        return f"{self.name}-{self.run_key[:6]}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that one filters by, each a slug of at most 64 characters."""
        words = [self.dataset, self.pair, self.method, self.temperature]
        words += [self.table] if self.table else []
        return tuple(dict.fromkeys(slug(word) for word in words))

    @property
    def job_type(self) -> str:
        """What kind of run it is: "train", or "teacher" for the training of a teacher."""
        return "teacher" if self.method == "teacher" else "train"

    def labels(self, config: Mapping[str, Any]) -> dict[str, Scalar]:
        """Flat columns by which runs are filtered, grouped and compared.

        Every choice of the config is there by its path, such as "temperature_tau" or "optim_lr",
        and the names of the run; "strategy" is the temperature strategy with all its settings.
        """
        student = config["student"]["arch"]
        return {
            **flatten({**config, "teacher": self.teacher_choices}),
            "table": self.table or "none",
            "dataset": self.dataset,
            "pair": self.pair,
            # A run is determined by its teacher's weights, so its config need not name the network.
            "teacher": "none" if self.pair == student else self.pair.removesuffix(f"_{student}"),
            "student": student,
            "method": self.method,
            "temperature": self.temperature,
            "strategy": self._strategy(config.get("temperature", {})),
            "objective": self.objective,
            "seed": self.seed,
            "protocol": config["run"]["protocol"],
            "epochs": config["run"]["epochs"],
            "run_key": self.run_key,
        }

    def _strategy(self, settings: Mapping[str, Any]) -> str:
        words = [f"{key}={value}" for key, value in flatten(settings).items()]
        return shorten(" ".join([self.temperature, *words]), 120)


class Tracker(Protocol):
    """Follows one run. It never raises after ``start``: curves are not worth a training.

    Attributes:
        every_steps: steps from one point within an epoch to the next; 0: none.
    """

    every_steps: int

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens the run, or continues it.

        Args:
            identity: who the run is.
            config: the config of the run as plain, resolved containers; it has at least
                ``student.arch``, ``run.protocol`` and ``run.epochs``.
            state: ``state_dict()`` of the tracker that followed the run before; None at its start.

        Raises:
            ConfigError: the tracker is required by the config and cannot work.
        """
        ...

    def log(self, row: Mapping[str, float | int]) -> None:
        """One row an epoch; ``row["epoch"]`` and ``row["step"]`` are how many are done, from 1."""
        ...

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """What one batch within an epoch was like; ``point["step"]`` counts finished steps."""
        ...

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Closes the run as "done", "failed" or "preempted"; a second call does nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain types for the checkpoint: what ``start`` needs to continue the same curve."""
        ...


class NullTracker:
    """Follows nothing: the run has its metrics.csv and that is enough.

    It hands on the state it was given, so that a run that is restarted once without a tracker can
    be continued on its old curve later.
    """

    every_steps = 0

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Keeps the state."""
        self._state = dict(state or {})

    def log(self, row: Mapping[str, float | int]) -> None:
        """Nothing."""

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Nothing."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The state given to ``start``."""
        return dict(self._state)


def slug(text: str, limit: int = 64) -> str:
    """``text`` as 1 to ``limit`` characters that are safe in a path, a URL and a page.

    Letters, digits, ``.``, ``_`` and ``-`` of ASCII stay, everything else becomes ``-``. A text
    that is too long ends in a digest of the whole, so that two long texts stay different.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    safe = re.sub(r"\.{2,}", ".", safe).strip("-.") or "unnamed"
    return shorten(safe, limit, text)


def shorten(text: str, limit: int, whole: str | None = None) -> str:
    """``text``, or as much of it as leaves room for a digest of ``whole`` (default: ``text``)."""
    if len(text) <= limit:
        return text
    source = text if whole is None else whole
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: limit - 9]}-{digest}"
