"""A group of runs that share a teacher, and the files by which its process is spoken with.

worker003.json    the request: what is to be trained
worker003.jsonl   the outcomes, one line for each run as soon as it has ended
worker003.log     what the process says
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
        name: for people: ``<method>-<temperature>-seed<k>-<key>``.
        key: its run key.
        folder: of the run.
        config: resolved, as plain containers.
        stages: folders of the runs that train its teacher, the teacher of that one, and so on, as
            far as they are trained here.
    """

    name: str
    key: str
    folder: str
    config: dict[str, Any]
    stages: Sequence[str] = ()

    def restore_config(self) -> DictConfig:
        """The config with its types."""
        return restore_config(self.config)

    def steps(self) -> int:
        """Optimizer steps of the run, and of the training of its teachers, that are safe."""
        return sum(_saved_steps(Path(folder)) for folder in (self.folder, *self.stages))


@dataclass(frozen=True)
class RunStatus:
    """What became of a run.

    Attributes:
        key: its run key.
        status: DONE, FAILED, RETURNED: it did not fit into memory beside the others, or HELD:
            another process trains it just now.
        exit_code: that of the command, had it been a single run.
        reason: of a failure, first line first.
        top1: last-epoch test accuracy, percent.
        log: where to read more.
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
        attempts: processes that died over this group in a row without any progress.
        avoid: name of the slot in which the last one died.
    """

    members: Sequence[Member]
    attempts: int = 0
    avoid: str | None = None
    steps: int = field(init=False, default=0)

    def stages(self) -> set[str]:
        """Folders of the runs that train the teachers of its members."""
        return {folder for member in self.members for folder in member.stages}

    def note_steps(self) -> None:
        """Remembers how far the runs are; ``has_progressed`` compares with it."""
        self.steps = self._total()

    def has_progressed(self) -> bool:
        """Whether anything was saved since ``note_steps``."""
        return self._total() > self.steps

    def _total(self) -> int:
        return sum(member.steps() for member in self.members)


def is_done(folder: str) -> bool:
    """Whether the run of a folder has come to its end."""
    return _saved_steps(Path(folder)) == _ENDED


def _saved_steps(folder: Path) -> int:
    """Those of the newest checkpoint; past all of them for a run that is done."""
    with suppress(KdbenchError, OSError):
        if read_record(folder).status == "done":  # one that failed goes on from its checkpoints
            return _ENDED
    saved = (folder / "checkpoint").glob("step*.json")
    return max((int(path.stem.removeprefix("step")) for path in saved), default=0)


def write_request(path: Path, members: Sequence[Member], share: float) -> None:
    """Writes what a worker is to do; see ``Slot.share``."""
    make_folder(path.parent)
    with naming(path):
        path.write_text(json.dumps({"share": share, "members": [asdict(m) for m in members]}))


def read_request(path: Path) -> tuple[list[Member], float]:
    """The members that have no outcome yet, and the share of memory of a request.

    A cluster may start the process of a request again, after it has told some of the outcomes.
    """
    content = json.loads(path.read_text())
    told = {parse_outcome(line).key for line in Tail(path.with_suffix(".jsonl")).lines()}
    left = [member for member in content["members"] if member["key"] not in told]
    members = [Member(**{**member, "stages": tuple(member["stages"])}) for member in left]
    return members, content["share"]


def report(request: Path, outcome: RunStatus) -> None:
    """Tells the launcher what became of a run."""
    path = request.with_suffix(".jsonl")
    with naming(path), path.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def note(request: Path, text: str) -> None:
    """Adds to what the process of a request says: what befell it, for people."""
    path = request.with_suffix(".log")
    with naming(path), path.open("a") as file:
        file.write(text.strip() + "\n")


def parse_outcome(line: str) -> RunStatus:
    """One line that ``report`` wrote."""
    return RunStatus(**json.loads(line))


class Tail:
    """Reads the lines that another process appends to a file, each once, whole lines only."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def lines(self) -> list[str]:
        """Lines that were finished since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()
