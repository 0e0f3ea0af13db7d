"""One process per slot of this machine: one or more slots per GPU, or shares of the CPU's cores."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from kdbench.errors import ConfigError
from kdbench.launch.executor import Slot, open_worker
from kdbench.machine import thread_variables, visible_gpus, wanted_threads


class LocalExecutor:
    """Runs workers on this machine.

    Args:
        gpus: ids as in CUDA_VISIBLE_DEVICES; None for all visible ones.
        slots_per_gpu: groups that share one GPU, >= 1.
        cpu_slots: concurrent groups without a GPU; None for as many as fit with ``run.threads``
            (or OMP_NUM_THREADS), and for one if neither is set, so that a run has the same
            threads as by itself.
    """

    interval = 0.2

    def __init__(
        self, gpus: list[int | str] | None, slots_per_gpu: int, cpu_slots: int | None
    ) -> None:
        if slots_per_gpu < 1 or (cpu_slots is not None and cpu_slots < 1):
            raise ConfigError(
                f"hydra.launcher.executor.slots_per_gpu={slots_per_gpu} and cpu_slots={cpu_slots} "
                f"must be whole numbers >= 1 (cpu_slots may be null)"
            )
        if gpus is not None and not gpus:
            raise ConfigError(
                "hydra.launcher.executor.gpus=[] is empty; use null or run.device=cpu"
            )
        self.gpus, self.slots_per_gpu, self.cpu_slots = gpus, slots_per_gpu, cpu_slots

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """Slots of the GPUs; of the CPU if there are none or ``device`` is "cpu"."""
        gpus = self.gpus
        if gpus is None:
            gpus = [] if device == "cpu" else list(visible_gpus())
        cores = len(os.sched_getaffinity(0))
        if gpus:
            return self._gpu_slots([str(gpu) for gpu in gpus], cores)
        count = self.cpu_slots or max(1, cores // (wanted_threads(threads) or cores))
        each = thread_variables(max(1, cores // count))
        return [Slot(f"cpu {k}" if count > 1 else "cpu", each, 1 / count) for k in range(count)]

    def start(self, request: Path, slot: Slot) -> "LocalWorker":
        """Starts a process that sees only the slot's GPU."""
        return LocalWorker(open_worker(request, slot.environment))

    def close(self) -> None:
        """Nothing to release."""

    def _gpu_slots(self, gpus: list[str], cores: int) -> list[Slot]:
        names = [(gpu, share) for share in range(self.slots_per_gpu) for gpu in gpus]
        threads = thread_variables(max(1, cores // len(names)))
        return [
            Slot(
                f"gpu {gpu}" + (f" share {share}" if self.slots_per_gpu > 1 else ""),
                {"CUDA_VISIBLE_DEVICES": gpu, **threads},
                1 / self.slots_per_gpu,
            )
            for gpu, share in names
        ]


class LocalWorker:
    """A child process."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self.process.poll()

    def stop(self) -> None:
        """Sends SIGTERM: the worker finishes its step, saves and exits with 75."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL to it and to its children, such as data loaders."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
