"""The interface of an executor: where the processes of a sweep run. Read this first."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdbench.files import naming


@dataclass(frozen=True)
class Slot:
    """A place for one process at a time.

    Attributes:
        name: for people, such as "gpu 0".
        environment: variables of the process; they make it see this place and no other.
        share: part of the device's memory that belongs to this slot, 0 < share <= 1.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0


class Worker(Protocol):
    """A process that trains one group, wherever it runs."""

    def poll(self) -> int | None:
        """None while it runs; then its exit code, negative for the signal that killed it."""
        ...

    def stop(self) -> None:
        """Asks it to save and leave; it ends with 75. Returns at once."""
        ...

    def kill(self) -> None:
        """Ends it now."""
        ...


class Executor(Protocol):
    """What ``hydra.launcher.executor`` instantiates. Importing it needs no torch.

    Attributes:
        interval: seconds between two looks at the workers.
    """

    interval: float

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """The places of this sweep.

        Args:
            device: ``run.device`` of its runs.
            threads: ``run.threads`` of its runs.

        Raises:
            ConfigError: there is not what the config asks for.
        """
        ...

    def start(self, request: Path, slot: Slot) -> Worker:
        """Starts ``kdbench.launch.worker`` with a request in a slot."""
        ...

    def close(self) -> None:
        """Gives back what the executor itself holds."""
        ...


def open_worker(request: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """The process of a request, on this machine; what it prints goes to a file beside the request.

    Its standard input stays open for as long as this process lives: the worker saves and leaves
    when it closes, so that no worker outlives the process that has to hear of it. It is in a
    session of its own, because Ctrl-C goes to all processes of a terminal's session, and only the
    launcher should answer it.
    """
    path = request.with_suffix(".log")
    with naming(path), path.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "kdbench.launch.worker", str(request)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )
