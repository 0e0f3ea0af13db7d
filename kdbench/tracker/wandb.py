"""Weights & Biases tracking. Its failures never abort training."""

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from kdbench.errors import ConfigError
from kdbench.records.identity import RunIdentity, slug
from kdbench.records.metric import BATCH, KINDS
from kdbench.tracker.base import best_so_far
from kdbench.tracker.console import Console
from kdbench.tracker.redact import describe_problem, redact
from kdbench.tracker.sync import OTHER_ID, mark_superseded, sync_arguments

logger = logging.getLogger("kdbench")

MODES = ("auto", "online", "offline", "disabled")
# Values of WANDB_MODE -> our modes.
_VARIABLE_MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
_NOT_IN_PROJECT = "/\\#?%:"
_NO_KEY = "no API key is configured"
# Seconds before this process retries a server that did not respond: otherwise each learner of a
# cohort would wait for it in turn.
_RETRY_AFTER = 600.0
# Seconds in which W&B's service handles a canceled request. If a process exits earlier, the service
# sometimes misses its request to stop, and the process waits in vain.
_GRACE = 0.5


class WandbTracker:
    """One W&B run for one learner; a process may have several open at once.

    W&B's files are in ``<run folder>/wandb``. Data that cannot be sent stays there, and the log
    explains how to upload it later. After the run has started nothing here raises: the first
    failure is logged as a warning, and training continues.

    Args:
        project: name of the W&B project.
        entity: W&B user or team; None: the account's default.
        mode: "online", "offline", "disabled", or "auto": WANDB_MODE if set, else online if an API
            key is configured and the server responds, else offline.
        group: replaces ``<table or dataset>/<pair>/<method>`` as the group of the run.
        tags: further tags.
        init_timeout: seconds, >= 1, to wait for the server: once for the login and once for the
            run.
        finish_timeout: seconds, > 0, to wait at the end for the last rows to arrive; once for all
            runs of a process that lost the server.
        required: refuse to train if the run cannot be online.
        every_steps: steps between points within an epoch, >= 0; 0: no points.
        commit: send kdbench's git commit.
        machine: send versions, operating system, host, processor and GPUs.
        console: send the lines of the run's log, without secrets.
        usage: send the use of processor, GPU, memory and disk over time.

    Raises:
        ConfigError: a value that W&B or this class cannot use.
    """

    # Shared by all trackers of a process: no server is contacted until then (monotonic), and why.
    _unreachable: ClassVar[tuple[float, str]] = (0.0, "")

    def __init__(
        self,
        project: str,
        entity: str | None,
        mode: str,
        group: str | None,
        tags: Sequence[str],
        init_timeout: int,
        finish_timeout: float,
        required: bool,
        every_steps: int,
        commit: bool,
        machine: bool,
        console: bool,
        usage: bool,
    ) -> None:
        _check_project(project)
        if mode not in MODES:
            raise ConfigError(f"tracker.mode={mode!r} must be one of {', '.join(MODES)}")
        if required and mode in ("offline", "disabled"):
            raise ConfigError(
                f"tracker.required=true means online, but tracker.mode={mode}; change one of them"
            )
        if not (init_timeout >= 1 and finish_timeout > 0):
            raise ConfigError(
                f"tracker.init_timeout={init_timeout} must be >= 1 second and "
                f"tracker.finish_timeout={finish_timeout} > 0 seconds"
            )
        if every_steps < 0:
            raise ConfigError(f"tracker.every_steps={every_steps} must be >= 0; 0 is off")
        self.project = project
        self.entity = entity
        self.mode = mode
        self.group = group
        self.tags = tuple(tags)
        self.init_timeout = init_timeout
        self.finish_timeout = finish_timeout
        self.required = required
        self.every_steps = every_steps
        self.commit, self.machine = commit, machine
        self.console, self.usage = console, usage
        self._console: Console | None = None
        self._run: Any = None
        self._id = ""
        self._is_new = True
        self._step = -1  # the last one sent
        self._rows: dict[int, dict[str, float | int]] = {}  # by step
        self._points: dict[int, dict[str, float | int]] = {}  # by step
        self._best: dict[str, float] = {}
        self._warned = False

    def start(
        self, identity: RunIdentity, config: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Opens or resumes the run: online if possible, else offline, else not at all.

        Raises:
            ConfigError: wandb is not installed, WANDB_MODE is invalid, or ``required`` is set and
                the run cannot be online.
        """
        run_id = (state or {}).get("run_id")
        self._id, self._is_new = run_id or uuid.uuid4().hex[:16], run_id is None
        self._points = {
            int(point["step"]): dict(point) for point in (state or {}).get("points", [])
        }
        mode = self._wanted_mode()
        if mode == "disabled":
            self._refuse_if_required("WANDB_MODE=disabled")
            return
        with _environment(identity.folder, self.init_timeout):
            self._open(mode, identity, config)
        self._attempt("define_metric", _define_axes)
        self._attempt("begin", self._begin)
        if self.console and self._run is not None:
            self._console = Console(identity.label, self._run.write_logs)
            self._console.open()

    def log(self, row: Mapping[str, float | int]) -> None:
        """Sends one row, and the points before it, unless W&B has them already."""
        step = int(row["step"])
        self._rows[step] = dict(row)
        self._best = best_so_far(row, self._best)
        self._send_points(step)
        self._send({**self._points.get(step, {}), **row, **self._best}, step)

    def log_point(self, point: Mapping[str, float | int]) -> None:
        """Sends the points before this one: a row with the same step may follow."""
        step = int(point["step"])
        self._send_points(step)
        self._points[step] = dict(point)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Writes the summary and closes the run; a failed run is marked as failed.

        A finished run also gets figures and a table of its numbers.
        """
        values = redact({**summary, "status": status})
        self._attempt("summary", lambda run: run.summary.update(values))
        if status == "done":
            self._attempt("figures", partial(self._draw, numbers=summary))
        run, self._run = self._run, None
        if self._console is not None:
            self._console.close()
        if run is None:
            return
        task = (run, 1 if status == "failed" else 0)
        if run.offline or not self._server_problem():
            self._close(*task)
        else:
            # The server is not responding. Python joins threads at exit, so all runs of a cohort
            # wait at the same time, not one after the other.
            threading.Thread(target=self._close, args=task).start()

    def state_dict(self) -> dict[str, Any]:
        """``run_id``: W&B's id; ``points``: all points within epochs, stored nowhere else."""
        return {"run_id": self._id, "points": [dict(point) for point in self._points.values()]}

    def _send_points(self, step: int) -> None:
        """Sends the points before a step."""
        for known in sorted(known for known in self._points if self._step < known < step):
            self._send(self._points[known], known)

    def _send(self, row: Mapping[str, float | int], step: int) -> None:
        if step > self._step and self._attempt("log", partial(_log, row=row, step=step)):
            self._step = step

    def _begin(self, run: Any) -> None:
        """Finds out which rows of this run W&B has.

        W&B's steps are training steps, so its next step tells: it follows the last row on the
        server, or is 0 for a new run. A resumed run logs all its rows again, so that an offline
        attempt has the whole curve.
        """
        self._step = run.step - 1
        mark_superseded(Path(run.dir).parent)

    def _draw(self, run: Any, numbers: Mapping[str, float]) -> None:
        from wandb import Table, plot

        from kdbench.tracker.figure import collect_curves

        rows = list(self._rows.values())
        shown: dict[str, Any] = {
            name: plot.line_series(
                xs=curves.epochs,
                ys=list(curves.lines.values()),
                keys=list(curves.lines),
                title=curves.title,
                xname="epoch",
            )
            for name, curves in collect_curves(rows).items()
        }
        if numbers:
            table = [[name, float(value)] for name, value in numbers.items()]
            shown["table/result"] = Table(columns=["metric", "value"], data=table)
        if not shown:
            return
        epoch = {"epoch": rows[-1]["epoch"]} if rows else {}
        # W&B copies tables to a folder of user data; keep them in the folder of the run instead.
        with _variables({"WANDB_DATA_DIR": str(Path(run.dir).parents[1] / "data")}):
            # In a separate row, after that of the last epoch.
            _log(run, {**epoch, **shown}, self._step + 1)

    def _wanted_mode(self) -> str:
        variable = os.environ.get("WANDB_MODE", "")
        if self.mode != "auto" or not variable:
            return self.mode
        if variable not in _VARIABLE_MODES:
            raise ConfigError(
                f"WANDB_MODE={variable!r} must be one of {', '.join(_VARIABLE_MODES)}; "
                f"change or unset it"
            )
        return _VARIABLE_MODES[variable]

    def _open(self, mode: str, identity: RunIdentity, config: Mapping[str, Any]) -> None:
        wandb = _import_wandb()
        init = partial(self._init, wandb, identity, config)
        if mode == "offline":
            self._refuse_if_required("WANDB_MODE=offline")
            self._open_offline(init, self._id, "as requested", logging.INFO)
            return
        problem, run_id = self.login_problem(), self._id
        if not problem:
            try:
                self._run = init("online", run_id)
                return
            except Exception as error:
                problem = self._remember_unreachable(error)
                run_id += OTHER_ID  # W&B's service does not release the id of a failed start
        self._refuse_if_required(problem)
        expected = mode == "auto" and problem == _NO_KEY
        level = logging.INFO if expected else logging.WARNING
        self._open_offline(init, run_id, problem, level)

    def _open_offline(
        self, init: Callable[[str, str], Any], run_id: str, reason: str, level: int
    ) -> None:
        try:
            self._run = init("offline", run_id)
        except Exception as error:
            logger.warning("W&B is off for this run: %s (%s)", describe_problem(error), reason)
            return
        hint = self._sync_command(self._run)
        logger.log(level, "W&B is offline: %s. To upload the curves later: %s", reason, hint)

    @staticmethod
    def login_problem() -> str:
        """The reason why this process cannot be online; "" if it can. Never prompts."""
        if problem := WandbTracker._server_problem():
            return problem
        try:
            return "" if _import_wandb().login(prompt=False) else _NO_KEY
        except Exception as error:
            return WandbTracker._remember_unreachable(error)

    @staticmethod
    def _server_problem() -> str:
        """The error of the last failed connection in this process; "" after ``_RETRY_AFTER``."""
        until, problem = WandbTracker._unreachable
        return problem if time.monotonic() < until else ""

    @staticmethod
    def _remember_unreachable(error: Exception) -> str:
        time.sleep(_GRACE)
        problem = describe_problem(error)
        WandbTracker._unreachable = (time.monotonic() + _RETRY_AFTER, problem)
        return problem

    def _init(
        self,
        wandb: ModuleType,
        identity: RunIdentity,
        config: Mapping[str, Any],
        mode: str,
        run_id: str,
    ) -> Any:
        """``wandb.init`` with explicit arguments, so that WANDB_ variables cannot mix up runs."""
        return wandb.init(
            mode=mode,
            id=run_id,
            # Only for runs that may be on the server: otherwise W&B warns, and an offline attempt
            # would later be appended to the data on the server instead of replacing it.
            resume="allow" if mode == "online" and not self._is_new else None,
            reinit="create_new",
            dir=identity.folder,
            project=self.project,
            entity=self.entity,
            group=self._group(identity),
            job_type=identity.job_type,
            name=identity.name,
            tags=list(dict.fromkeys([*identity.tags, *(slug(redact(tag)) for tag in self.tags)])),
            config=_config(identity, config) | self._circumstances(),
            allow_val_change=True,
            settings=self._settings(wandb),
        )

    def _settings(self, wandb: ModuleType) -> Any:
        return wandb.Settings(
            silent=True,
            console="off",  # would capture the output of all runs of the process, secrets included
            x_disable_stats=not self.usage,
            x_disable_meta=not self.machine,
            # Would query a cloud metadata server, even offline.
            x_stats_coreweave_metadata_base_url="http://127.0.0.1:9",
            program="kdbench-train",
            # Would send the URL of the git remote, which may contain a secret.
            disable_git=True,
            git_commit=self._circumstances().get("commit"),
            disable_code=True,
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
        )

    def _circumstances(self) -> dict[str, Any]:
        """Commit and environment of this attempt, as further config columns."""
        if not (self.commit or self.machine):
            return {}
        environment = redact(_describe_environment())
        git = environment.pop("git")
        found = {"commit": git["commit"], "commit_changed": git["dirty"]} if self.commit else {}
        return found | ({"environment": environment} if self.machine else {})

    def _group(self, identity: RunIdentity) -> str:
        if self.group is None:
            return identity.group
        return "/".join(slug(part, 40) for part in self.group.split("/"))

    def _sync_command(self, run: Any) -> str:
        return " ".join(["wandb", *sync_arguments([Path(run.dir).parent])])

    def _refuse_if_required(self, problem: str) -> None:
        if self.required:
            raise ConfigError(
                f"tracker.required=true, but W&B cannot be online: {problem}; run 'wandb login', "
                f"check the network, or set tracker.required=false"
            )

    def _attempt(self, what: str, action: Callable[[Any], object]) -> bool:
        """Runs an action on the open run; returns whether it succeeded."""
        if self._run is None:
            return False
        try:
            action(self._run)
        except Exception as error:
            self._warn_once(what, self._run, error)
            return False
        return True

    def _close(self, run: Any, exit_code: int) -> None:
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:
            if isinstance(error, TimeoutError):
                self._remember_unreachable(error)
            self._warn_once("finish", run, error)

    def _warn_once(self, what: str, run: Any, error: Exception) -> None:
        """Warns of the first failure only: later ones usually have the same cause."""
        if not self._warned:
            logger.warning(
                "W&B %s failed (%s); training is not affected and metrics.csv is complete. "
                "To upload W&B's local files: %s",
                what,
                describe_problem(error),
                self._sync_command(run),
            )
        self._warned = True


def _check_project(project: str) -> None:
    found = sorted(set(project) & set(_NOT_IN_PROJECT))
    if found or not 1 <= len(project) <= 128:
        raise ConfigError(
            f"tracker.project={project!r} must have 1 to 128 characters and none of "
            f"{' '.join(_NOT_IN_PROJECT)}"
        )


def _config(identity: RunIdentity, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run in W&B: flat columns, plus the nested config under ``conf``."""
    safe = redact(config)
    flat = {name: redact(value) for name, value in identity.labels(safe).items()}
    return {**flat, "conf": safe}


def _log(run: Any, row: Mapping[str, Any], step: int) -> None:
    # With a step only, W&B would hold the row back until the next one.
    run.log(dict(row), step=step, commit=True)


def _define_axes(run: Any) -> None:
    run.define_metric("epoch")
    run.define_metric("step")
    for kind in KINDS:
        run.define_metric(f"{kind}/*", step_metric="epoch")
    run.define_metric(f"{BATCH}/*", step_metric="step")


@cache
def _describe_environment() -> dict[str, Any]:
    from kdbench.records.environment import describe_environment

    return describe_environment()


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except Exception as error:  # a broken installation may raise anything
        raise ConfigError(
            f"tracker=wandb needs the package wandb, which cannot be imported: "
            f"{type(error).__name__}: {error}; "
            f"pip install 'wandb>=0.31,<0.32', or choose tracker=csv"
        ) from error
    return wandb


@contextmanager
def _environment(folder: Path, timeout: int) -> Iterator[None]:
    """Sets the environment for W&B's service; the user's variables take precedence.

    Restores ``os.environ`` afterwards: WANDB_SERVICE, which W&B adds, would tie child processes to
    the lifetime of this one.
    """
    before, arguments = set(os.environ), sys.argv
    # W&B would send the command line; its choices are in the config.
    sys.argv = arguments[:1]
    # The service's log, else in ~/.cache. Only a variable can move it.
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder.absolute() / "wandb" / "cache"))
    # No crash reports: an offline run must not use the network.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(timeout))  # of the login
    try:
        yield
    finally:
        sys.argv = arguments
        for name in set(os.environ) - before:
            del os.environ[name]


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables temporarily; the user's take precedence."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
