"""A group of runs that share a teacher, and the files that the launcher and its worker exchange.

worker003.json    the request: the runs to train
worker003.jsonl   the outcomes, one line per run as it ends
worker003.log     output of the process
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kdbench.config.compose import restore_config
from kdbench.errors import KdbenchError
from kdbench.files import make_folder, naming
from kdbench.records.record import read_record

DONE, FAILED, RETURNED, HELD = "done", "failed", "returned", "held"
_ENDED = 1 << 62


@dataclass(frozen=True)
class Member:
    """A run of a group.

    Attributes:
        name: for messages: ``<method>-<temperature>-seed<k>-<key>``.
        key: its run key.
        folder: of the run.
        config: resolved, as plain containers.
        stages: run folders of its teacher, of the teacher of that one, and so on, as far as they
            are trained here.
    """

    name: str
    key: str
    folder: str
    config: dict[str, Any]
    stages: Sequence[str] = ()

    def restore_config(self) -> DictConfig:
        """The config with its schema types."""
        return restore_config(self.config)

    def steps(self) -> int:
        """Checkpointed optimizer steps of the run and of the training of its teachers."""
        return sum(_saved_steps(Path(folder)) for folder in (self.folder, *self.stages))


@dataclass(frozen=True)
class RunStatus:
    """The outcome of a run.

    Attributes:
        key: its run key.
        status: DONE, FAILED, RETURNED (did not fit in memory with the others) or HELD (another
            process is training it).
        exit_code: as of the same run by itself.
        reason: error message of a failure.
        top1: last-epoch test accuracy, percent.
        log: path of the log with the details.
    """

    key: str
    status: str
    exit_code: int = 0
    reason: str = ""
    top1: float | None = None
    log: str = ""


@dataclass
class Group:
    """Runs for one process.

    Attributes:
        members: the runs.
        attempts: consecutive processes of this group that died without progress.
        avoid: name of the slot where the last one died.
    """

    members: Sequence[Member]
    attempts: int = 0
    avoid: str | None = None
    steps: int = field(init=False, default=0)

    def stages(self) -> set[str]:
        """Folders of the runs that train the teachers of its members."""
        return {folder for member in self.members for folder in member.stages}

    def mark_progress(self) -> None:
        """Stores the number of saved steps for ``has_progressed``."""
        self.steps = self._total()

    def has_progressed(self) -> bool:
        """Whether more steps have been saved since ``mark_progress``."""
        return self._total() > self.steps

    def _total(self) -> int:
        return sum(member.steps() for member in self.members)


def is_done(folder: str) -> bool:
    """Whether the run of a folder is done."""
    return _saved_steps(Path(folder)) == _ENDED


def _saved_steps(folder: Path) -> int:
    """Step of the newest checkpoint; a number beyond any step for a finished run."""
    with suppress(KdbenchError, OSError):
        if read_record(folder).status == "done":  # a failed run resumes from its checkpoints
            return _ENDED
    saved = (folder / "checkpoint").glob("step*.json")
    return max((int(path.stem.removeprefix("step")) for path in saved), default=0)


def write_request(path: Path, members: Sequence[Member], share: float) -> None:
    """Writes the request of a worker; for ``share`` see ``Slot``."""
    make_folder(path.parent)
    with naming(path):
        path.write_text(json.dumps({"share": share, "members": [asdict(m) for m in members]}))


def read_request(path: Path) -> tuple[list[Member], float]:
    """The members without an outcome, and the memory share of a request.

    A cluster may restart the process of a request after it has reported some outcomes.
    """
    content = json.loads(path.read_text())
    reported = {parse_outcome(line).key for line in Tail(path.with_suffix(".jsonl")).lines()}
    left = [member for member in content["members"] if member["key"] not in reported]
    members = [Member(**{**member, "stages": tuple(member["stages"])}) for member in left]
    return members, content["share"]


def report(request: Path, outcome: RunStatus) -> None:
    """Reports the outcome of a run to the launcher."""
    path = request.with_suffix(".jsonl")
    with naming(path), path.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def append_log(request: Path, text: str) -> None:
    """Appends a line to the log of a request, about its process."""
    path = request.with_suffix(".log")
    with naming(path), path.open("a") as file:
        file.write(text.strip() + "\n")


def parse_outcome(line: str) -> RunStatus:
    """Parses one line written by ``report``."""
    return RunStatus(**json.loads(line))


class Tail:
    """Reads the complete lines that another process appends to a file, each once."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def lines(self) -> list[str]:
        """Lines completed since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()
