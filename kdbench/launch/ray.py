"""A Ray actor for each group, with its part of a GPU.

The actor holds the worker as its child: its node must see the same files and Python environment.
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
from kdbench.launch.group import note
from kdbench.machine import thread_variables, wanted_threads

# Of the Ray that is started here. Only what is on this machine may talk to it, and that only with
# a token; the first is what Ray does by itself on other systems than Linux. No call home.
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_STORE = 80 << 20  # bytes of shared memory, the least that Ray takes: nothing goes through it


class RayExecutor:
    """Runs every group in an actor.

    Args:
        address: of a running cluster, as in ``ray.init``; "local" starts Ray on this machine.
        num_cpus: with "local", the cores that Ray may use; None: all.
        num_gpus: with "local", the same for GPUs.
        temp_dir: with "local", for Ray's files; None: Ray's choice.
        slots_per_gpu: groups that share a GPU, >= 1.
        cpus_per_group: cores, and threads, of a group, >= 1.
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
                f"hydra.launcher.executor.address={address!r} is a running cluster: num_cpus, "
                f"num_gpus and temp_dir belong to it and must be null here"
            )
        self.slots_per_gpu, self.cpus_per_group = slots_per_gpu, cpus_per_group
        self.gpus = 0.0  # of a group

    def slots(self, device: str, threads: int | None) -> list[Slot]:
        """As many as the nodes have room for when nobody else uses them."""
        threads = wanted_threads(threads)
        if threads is not None and threads > self.cpus_per_group:
            raise ConfigError(
                f"run.threads={threads} (or OMP_NUM_THREADS) are more than the cores of a group, "
                f"hydra.launcher.executor.cpus_per_group={self.cpus_per_group}"
            )
        self.ray = self._connect()
        if device != "cpu":  # Ray counts GPUs in parts of 0.0001
            self.gpus = math.floor(10_000 / self.slots_per_gpu) / 10_000
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        rooms = [self._room(node) for node in nodes]
        if not any(rooms):
            self.close()
            found = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise ConfigError(
                f"a group asks for {self.cpus_per_group} CPUs and {self.gpus:g} GPUs, and no node "
                f"of the Ray cluster has them; there are: {found}. See cpus_per_group in "
                f"hydra.launcher.executor, and use run.device=cpu to train without GPUs"
            )
        share = 1 / self.slots_per_gpu if self.gpus else 1 / max(rooms)
        threads_of_group = thread_variables(self.cpus_per_group)
        return [Slot(f"ray {k}", threads_of_group, share) for k in range(sum(rooms))]

    def start(self, request: Path, slot: Slot) -> "RayWorker":
        """Starts an actor, without restarts: a retry is the schedule's, and goes on from files."""
        actor = self.ray.remote(Keeper).options(
            num_cpus=self.cpus_per_group, num_gpus=self.gpus, max_restarts=0, max_concurrency=2
        )
        request = request.absolute()
        keeper = actor.remote(request, dict(slot.environment), os.getcwd())
        return RayWorker(self.ray, keeper, request)

    def close(self) -> None:
        """Ends the Ray that was started here, or leaves the cluster."""
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
            import ray  # here, because it reads its variables now, and is an extra
        except ImportError as error:
            raise ConfigError(
                "hydra/launcher=cohort_ray needs Ray: pip install 'kdbench[ray]'"
            ) from error
        try:
            self._find_cluster()
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"Ray did not start, or is not there "
                f"(hydra.launcher.executor.address={self.address}): {error}"
            ) from error
        return ray

    def _find_cluster(self) -> None:
        """Raises OSError where nobody listens; ``ray.init`` would wait ten minutes and longer."""
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if host:
            socket.create_connection((host, int(port)), timeout=10).close()


class Keeper:
    """The actor: lives on a node of the cluster for as long as its worker."""

    def __init__(self, request: Path, environment: Mapping[str, str], folder: str) -> None:
        os.chdir(folder)  # the paths of runs may be relative
        self.process = open_worker(request, environment)

    def wait(self) -> int:
        """The worker's exit code. Blocks one of the actor's two threads."""
        return self.process.wait()

    def stop(self) -> None:
        """SIGTERM to the worker, which saves and leaves."""
        self.process.terminate()


class RayWorker:
    """An actor, as the launcher sees it."""

    def __init__(self, ray: ModuleType, keeper: Any, request: Path) -> None:
        self.ray, self.keeper, self.request = ray, keeper, request
        self.begun, self.code = keeper.__ray_ready__.remote(), keeper.wait.remote()

    def poll(self) -> int | None:
        """The worker's exit code; -9 where the actor died before it could tell."""
        if not self._is_there(self.code):
            return None
        try:
            return self.ray.get(self.code)
        except self.ray.exceptions.RayActorError as error:
            note(self.request, str(error))
            return -signal.SIGKILL
        finally:
            self.kill()

    def stop(self) -> None:
        """``ray.cancel`` would not reach the worker; an actor that waits for room is given up."""
        if self._is_there(self.begun):
            self.keeper.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """The worker itself still saves: its standard input closes."""
        self.ray.kill(self.keeper)

    def _is_there(self, answer: Any) -> bool:
        return bool(self.ray.wait([answer], timeout=0)[0])
