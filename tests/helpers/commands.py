"""Stands in for the installed commands, here or in processes that have torch imported already."""

import importlib
import io
import logging
import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tests.helpers.harness import TINY, context
from tests.helpers.waiting import hold_at


def command(outputs, arguments, dead_gpu=None, memory=None, environment=None, here=None):
    """``kdbench-train`` with everything below ``outputs``; what it says goes to said.txt there.

    Its workers are forks of this process: they do what real ones do, seconds earlier.

    Args:
        outputs: folder of the test.
        arguments: of the command line.
        dead_gpu: id of a GPU on which every worker dies.
        memory: bytes that a worker believes to be free.
        environment: variables of the workers; HOLD_AT is for ``waiting.hold_at``.
        here: current directory.
    """
    import kdbench.engine.capacity
    import kdbench.launch.local
    from kdbench.cli.train import main

    def open_worker(request, variables):
        died = variables.get("CUDA_VISIBLE_DEVICES", "none") == dead_gpu
        return ForkedWorker(request, {**variables, **(environment or {})}, died)

    kdbench.launch.local.open_worker = open_worker
    if memory is not None:
        kdbench.engine.capacity.free_bytes = lambda device: memory
    os.setpgrp()
    os.chdir(here or os.getcwd())
    os.environ.update(environment or {})
    sys.stdout = sys.stderr = open(Path(outputs) / "said.txt", "a", buffering=1)  # noqa: SIM115
    sys.argv = ["kdbench-train", f"paths.outputs={outputs}/out", *arguments]
    main()


def other_command(outputs, module, arguments):
    """The console script of a module; what it says goes to said.txt."""
    sys.stdout = sys.stderr = open(Path(outputs) / "said.txt", "a", buffering=1)  # noqa: SIM115
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


class ForkedWorker:
    """What ``open_worker`` returns, as far as ``LocalWorker`` uses it."""

    def __init__(self, request, variables, died):
        read, self._write = os.pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_work, args=(request, variables, died, read, self._write)
        )
        self._process.start()
        os.close(read)
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def terminate(self):
        self._process.terminate()

    def wait(self):
        self._process.join()


def _work(request, variables, died, read, write):
    from kdbench.launch import worker

    os.setsid()
    os.close(write)
    os.dup2(read, 0)
    output = open(request.with_suffix(".log"), "a", buffering=1)  # noqa: SIM115
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    logging.getLogger().handlers.clear()
    os.environ.update(variables)
    hold_at(variables.get("HOLD_AT", ""))
    if died:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.argv = ["worker", str(request)]
    worker.main()


@contextmanager
def loggers_restored():
    """Hydra configures logging for its process."""
    owners = [logging.getLogger(), logging.getLogger("kdbench")]
    before = [(owner, list(owner.handlers), owner.level) for owner in owners]
    try:
        yield
    finally:
        for owner, handlers, level in before:
            owner.handlers[:] = handlers
            owner.setLevel(level)


def run_here(module, arguments, folder=None, patch=None):
    """Exit code and output of a command in this process.

    Args:
        module: of the command.
        arguments: of its command line.
        folder: current directory.
        patch: called with a MonkeyPatch before the command.
    """
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, loggers_restored():
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # kdbench sets it, for its process
        if folder is not None:
            monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with redirect_stdout(said), redirect_stderr(said):
            main = importlib.import_module(module).main
            if patch is not None:
                patch(monkeypatch)
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
    return code, said.getvalue()


class Cli:
    """Runs commands in the folder of a test."""

    def __init__(self, folder):
        self.folder = folder
        self.said_path = folder / "said.txt"
        self.started = []

    def start(self, *arguments, **circumstances):
        tiny = [] if any("dataset=" in argument for argument in arguments) else TINY
        process = context().Process(
            target=command, args=(str(self.folder), [*tiny, *arguments]), kwargs=circumstances
        )
        process.start()
        self.started.append(process)
        return process

    def close(self):
        """Leaves nothing running, should a test have failed."""
        for process in self.started:
            process.kill()

    def __call__(self, *arguments, **circumstances):
        """Exit code and what was said."""
        self.said_path.unlink(missing_ok=True)
        process = self.start(*arguments, **circumstances)
        process.join()
        return process.exitcode, self.said

    def other(self, module, *arguments):
        """Exit code of another command than kdbench-train, and what was said."""
        self.said_path.unlink(missing_ok=True)
        process = context().Process(
            target=other_command, args=(str(self.folder), module, list(map(str, arguments)))
        )
        process.start()
        self.started.append(process)
        process.join()
        return process.exitcode, self.said

    @property
    def said(self):
        return self.said_path.read_text() if self.said_path.exists() else ""

    @property
    def runs(self):
        """Records of all runs."""
        return sorted((self.folder / "out" / "runs").rglob("record.json"))
