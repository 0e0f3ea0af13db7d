"""The executor interface: where the processes of a sweep run. Read this first."""

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
    """A resource for one process at a time, such as a GPU.

    Attributes:
        name: for messages, such as "gpu 0".
        environment: variables of the process; they restrict it to this slot.
        share: fraction of the device's memory that this slot may use, 0 < share <= 1.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0


class Worker(Protocol):
    """A process that trains one group, wherever it runs."""

    def poll(self) -> int | None:
        """None while it runs; then its exit code, or minus the signal that killed it."""
        ...

    def stop(self) -> None:
        """Requests it to save and exit with code 75. Does not wait."""
        ...

    def kill(self) -> None:
        """Kills it."""
        ...


class Executor(Protocol):
    """What ``hydra.launcher.executor`` instantiates. Importing it needs no torch.

    Attributes:
        interval: seconds between polls of the workers.
    """

    interval: float

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """The slots of this sweep.

        Args:
            device: ``run.device`` of its runs.
            threads: ``run.threads`` of its runs.

        Raises:
            ConfigError: the requested resources are not available.
        """
        ...

    def start(self, request: Path, slot: Slot) -> Worker:
        """Starts ``kdbench.launch.worker`` on a request in a slot."""
        ...

    def close(self) -> None:
        """Releases the executor's own resources."""
        ...


def open_worker(request: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts the process of a request on this machine, with its output in a file beside it.

    Its standard input stays open while this process lives. When it closes, the worker saves and
    exits, so no worker outlives its launcher. It has its own session because Ctrl-C signals all
    processes of a terminal's session, and only the launcher should handle it.
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
