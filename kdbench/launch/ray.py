"""One Ray actor per group, with its fraction of a GPU.

The actor runs the worker as a child process: its node needs the same files and Python environment.
"""

import logging
import math
import os
import secrets
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kdbench.errors import ConfigError
from kdbench.launch.executor import Slot, open_worker
from kdbench.launch.group import append_log
from kdbench.machine import thread_variables, wanted_threads

# For a Ray started here: reachable only from this machine and with a token, and no usage reports.
# The first is Ray's default on systems other than Linux.
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_STORE = 80 << 20  # bytes of shared memory: Ray's minimum, as nothing is stored there


class RayExecutor:
    """Runs every group in an actor.

    Args:
        address: of a running cluster, as in ``ray.init``; "local" starts Ray on this machine.
        num_cpus: with "local", the cores that Ray may use; None for all.
        num_gpus: with "local", the GPUs that Ray may use; None for all.
        temp_dir: with "local", folder of Ray's files; None for Ray's default.
        slots_per_gpu: groups that share a GPU, >= 1.
        cpus_per_group: cores and threads of a group, >= 1.
    """

    interval = 0.2

    def __init__(
        self,
        address: str,
        num_cpus: int | None,
        num_gpus: int | None,
        temp_dir: str | None,
        slots_per_gpu: int,
        cpus_per_group: int,
    ) -> None:
        if slots_per_gpu < 1 or cpus_per_group < 1:
            raise ConfigError(
                f"hydra.launcher.executor.slots_per_gpu={slots_per_gpu} and "
                f"cpus_per_group={cpus_per_group} must be whole numbers >= 1"
            )
        own = {"num_cpus": num_cpus, "num_gpus": num_gpus, "_temp_dir": temp_dir}
        self.address, self.own = address, {k: v for k, v in own.items() if v is not None}
        if address != "local" and self.own:
            raise ConfigError(
                f"hydra.launcher.executor.address={address!r} is a running cluster, which has its "
                f"own num_cpus, num_gpus and temp_dir; set them to null"
            )
        self.slots_per_gpu, self.cpus_per_group = slots_per_gpu, cpus_per_group
        self.gpus = 0.0  # per group

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """As many slots as fit on the nodes if nothing else runs there."""
        threads = wanted_threads(threads)
        if threads is not None and threads > self.cpus_per_group:
            raise ConfigError(
                f"run.threads={threads} (or OMP_NUM_THREADS) exceeds the cores of a group, "
                f"hydra.launcher.executor.cpus_per_group={self.cpus_per_group}"
            )
        self.ray = self._connect()
        if device != "cpu":  # Ray's resolution is 0.0001 GPUs
            self.gpus = math.floor(10_000 / self.slots_per_gpu) / 10_000
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        rooms = [self._room(node) for node in nodes]
        if not any(rooms):
            self.close()
            found = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise ConfigError(
                f"a group needs {self.cpus_per_group} CPUs and {self.gpus:g} GPUs, but no node of "
                f"the Ray cluster has them; its nodes: {found}. Change cpus_per_group in "
                f"hydra.launcher.executor, or use run.device=cpu to train without GPUs"
            )
        share = 1 / self.slots_per_gpu if self.gpus else 1 / max(rooms)
        threads_of_group = thread_variables(self.cpus_per_group)
        return [Slot(f"ray {k}", threads_of_group, share) for k in range(sum(rooms))]

    def start(self, request: Path, slot: Slot) -> "RayWorker":
        """Starts an actor, without restarts: the scheduler retries from checkpoints."""
        remote = self.ray.remote(WorkerActor).options(
            num_cpus=self.cpus_per_group, num_gpus=self.gpus, max_restarts=0, max_concurrency=2
        )
        request = request.absolute()
        actor = remote.remote(request, dict(slot.environment), os.getcwd())
        return RayWorker(self.ray, actor, request)

    def close(self) -> None:
        """Stops a Ray started here, or disconnects from the cluster."""
        self.ray.shutdown()

    def _room(self, node: Mapping[str, float]) -> int:
        room = int(node.get("CPU", 0) // self.cpus_per_group)
        return min(room, int(node.get("GPU", 0)) * self.slots_per_gpu) if self.gpus else room

    def _connect(self) -> ModuleType:
        options: dict[str, Any] = dict(self.own)
        if self.address == "local":
            os.environ.update(_PRIVATE)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            options["object_store_memory"] = _STORE
            options["include_dashboard"] = False
        try:
            import ray  # here: it is an extra, and reads its variables on import
        except ImportError as error:
            raise ConfigError(
                "hydra/launcher=cohort_ray needs Ray: pip install 'kdbench[ray]'"
            ) from error
        try:
            self._find_cluster()
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"Ray did not start or is not reachable "
                f"(hydra.launcher.executor.address={self.address}): {error}"
            ) from error
        return ray

    def _find_cluster(self) -> None:
        """Raises OSError if the port is closed; ``ray.init`` would wait for over ten minutes."""
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()


class WorkerActor:
    """The actor of a worker: lives on a node of the cluster as long as the worker."""

    def __init__(self, request: Path, environment: Mapping[str, str], folder: str) -> None:
        os.chdir(folder)  # run folders may be relative paths
        self.process = open_worker(request, environment)

    def wait(self) -> int:
        """The worker's exit code. Blocks one of the actor's two threads."""
        return self.process.wait()

    def stop(self) -> None:
        """Sends SIGTERM to the worker, which saves and exits."""
        self.process.terminate()


class RayWorker:
    """Handle of an actor, for the scheduler."""

    def __init__(self, ray: ModuleType, actor: Any, request: Path) -> None:
        self.ray, self.actor, self.request = ray, actor, request
        self.started, self.code = actor.__ray_ready__.remote(), actor.wait.remote()

    def poll(self) -> int | None:
        """The worker's exit code, if it has ended; -9 if the actor died first."""
        if not self._is_ready(self.code):
            return None
        try:
            return self.ray.get(self.code)
        except self.ray.exceptions.RayActorError as error:
            append_log(self.request, str(error))
            return -signal.SIGKILL
        finally:
            self.kill()

    def stop(self) -> None:
        """Stops the worker, which ``ray.cancel`` would not reach; kills a pending actor."""
        if self._is_ready(self.started):
            self.actor.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """Kills the actor. The worker still saves, because its standard input closes."""
        self.ray.kill(self.actor)

    def _is_ready(self, reference: Any) -> bool:
        return bool(self.ray.wait([reference], timeout=0)[0])
