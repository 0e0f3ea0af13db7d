"""Identity of a run, and safe names for folders, tables and dashboards."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.records.flat import Scalar, flatten

TEACHER = "teacher"  # the role of a run that trains the teacher of another one


@dataclass(frozen=True)
class RunIdentity:
    """Identity of a run: one learner, one folder, one curve.

    Attributes:
        run_key: SHA-256 (64 hex digits) of everything that determines the result.
        folder: existing folder of the run; a tracker writes only below it.
        dataset, pair, method, temperature, objective: names as in ``conf/``.
        seed: seed of the student.
        role: "student", or "teacher" if the run trains the teacher of another one.
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
    role: str = "student"
    table: str | None = None
    teacher_choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """``<table or dataset>/<pair>/<method>``: its runs differ in strategy and seed."""
        first = self.table or self.dataset
        return "/".join(slug(part, 40) for part in (first, self.pair, self.method))

    @property
    def name(self) -> str:
        """``<method>-<temperature>-seed<k>`` as a safe slug."""
        return slug(f"{self.method}-{self.temperature}-seed{self.seed}")

    @property
    def label(self) -> str:
        """The name and the start of the key, as two runs may have the same name."""
        return f"{self.name}-{self.run_key[:6]}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Words to filter by, each a slug of at most 64 characters."""
        words = [self.dataset, self.pair, self.method, self.temperature]
        words += [self.table] if self.table else []
        return tuple(dict.fromkeys(slug(word) for word in words))

    @property
    def job_type(self) -> str:
        """What kind of run it is: "train", or "teacher" for the training of a teacher."""
        return TEACHER if self.role == TEACHER else "train"

    def labels(self, config: Mapping[str, Any]) -> dict[str, Scalar]:
        """Flat columns to filter, group and compare runs by.

        Every config value by its path, such as "temperature_tau" or "optim_lr", and the names of
        the run; "strategy" is the temperature strategy with all its settings.
        """
        student = config["student"]["arch"]
        return {
            **flatten({**config, "teacher": self.teacher_choices}),
            "table": self.table or "none",
            "dataset": self.dataset,
            "pair": self.pair,
            # The teacher's weights determine a run, so its config need not name the network.
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
        return shorten_unique(" ".join([self.temperature, *words]), 120)


def slug(text: str, limit: int = 64) -> str:
    """``text`` as 1 to ``limit`` characters that are safe in a path, a URL and a page.

    ASCII letters, digits, ``.``, ``_`` and ``-`` stay, everything else becomes ``-``. A text that
    is too long ends in a digest of the whole, so that different texts stay different.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    safe = re.sub(r"\.{2,}", ".", safe).strip("-.") or "unnamed"
    return shorten_unique(safe, limit, text)


def shorten_unique(text: str, limit: int, whole: str | None = None) -> str:
    """``text``, truncated and with a digest of ``whole`` (default: ``text``) if it is too long."""
    if len(text) <= limit:
        return text
    source = text if whole is None else whole
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: limit - 9]}-{digest}"
