"""A sweep, from Hydra's list of jobs to their results: trains each missing run once."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from kdbench.columns import align_columns
from kdbench.config.compose import config_files, write_config
from kdbench.config.identity import (
    CohortKey,
    cohort_key,
    describe,
    resolve_config,
    run_key,
    stage_folders,
    strategy_name,
)
from kdbench.errors import ConfigError, KdbenchError, SweepError, known_error
from kdbench.launch.executor import Executor
from kdbench.launch.group import DONE, FAILED, Member, RunStatus
from kdbench.launch.limit import check_points
from kdbench.launch.plan import form_groups
from kdbench.launch.scheduler import Scheduler
from kdbench.records.record import find_finished
from kdbench.report.layout import method_label, pair_label
from kdbench.words import plural, say, shorten

PROGRESS_INTERVAL = 3.0  # seconds between progress messages


@dataclass
class SweepJob:
    """One job of Hydra's list.

    Attributes:
        overrides: of this job.
        member: its run; None if it cannot be identified, because files are missing.
        cohort: the cohort key of the run.
        files: the files for ``.hydra`` in its folder; None once they are written.
        cfg: its config with Hydra's node, for callbacks; None without any, as it takes 0.4 MB.
        outcome: None until the run has ended.
        cell: names of its row and column in a table.
        plain: its resolved config; only in a dry run.
    """

    overrides: Sequence[str]
    member: Member | None = None
    cohort: CohortKey | None = None
    files: dict[str, str] | None = None
    cfg: DictConfig | None = None
    outcome: RunStatus | None = None
    cell: tuple[str, str] = ("", "")
    plain: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.member.name if self.member is not None else " ".join(self.overrides)

    @property
    def is_done(self) -> bool:
        """Whether its run is finished."""
        return self.outcome is not None and self.outcome.status == DONE


class Sweep:
    """A batch of jobs from Hydra's sweeper.

    Args:
        executor: where the processes run.
        max_learners: largest group, >= 1; None for as many as fit in memory.
        fail_fast: stop after this many failures (>= 1) for the same reason; None to never stop.
        max_points: most jobs that are accepted, >= 1; None for any number.
        forecast: for a dry run, describes what would be trained, given all jobs and, for each, the
            job that trains its run. None to train.
        context: Hydra's context; its callbacks are called in this process.
        task_function: Hydra's task of a single run, for the callbacks only.
        config: of the sweep, with Hydra's node.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        executor: Executor,
        max_learners: int | None,
        fail_fast: int | None,
        max_points: int | None,
        forecast: "Callable[[Sequence[SweepJob], Sequence[SweepJob]], str] | None",
        context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        numbers = {"max_learners": max_learners, "fail_fast": fail_fast, "max_points": max_points}
        for name, value in numbers.items():
            if value is not None and not (type(value) is int and value >= 1):
                raise ConfigError(
                    f"hydra.launcher.{name}={value!r} must be a whole number >= 1, or null"
                )
        self.executor, self.max_learners, self.fail_fast = executor, max_learners, fail_fast
        self.max_points, self.forecast = max_points, forecast
        self.context, self.task_function, self.config = context, task_function, config
        self.by_key: dict[str, SweepJob] = {}  # the job that trains each run

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Trains the missing runs; returns results in the order of the jobs.

        Args:
            job_overrides: one list per job.
            first: number of the first job.

        Raises:
            ConfigError: more jobs than ``max_points``.
            Preempted: stopped by a signal; the runs in progress are saved.
        """
        check_points(len(job_overrides), self.max_points)
        numbered = enumerate(_with_progress(job_overrides), first)
        jobs = [self._open_job(number, overrides) for number, overrides in numbered]
        trained_by = [self.by_key[job.member.key] if job.member else job for job in jobs]
        distinct = list({id(job): job for job in trained_by}.values())
        missing = [job for job in distinct if job.outcome is None]
        done = sum(job.is_done for job in distinct)
        say(
            f"sweep of {plural(len(jobs), 'job')}: "
            f"{plural(len(jobs) - len(distinct), 'duplicate')}, {done} already done, "
            f"{len(missing)} to train"
        )
        for job in distinct:
            if job.outcome is not None and not job.is_done:
                self._report_failure(job)
        if self.forecast is not None:
            say(self.forecast(jobs, trained_by))
            return [self._job_return(job, 0) for job in trained_by]
        if missing:
            self._train(missing)
        failures = [job for job in distinct if not job.is_done]
        if failures:
            of_all = f"{len(failures)} of {plural(len(distinct), 'run')}"
            say(f"\nunfinished: {of_all}\n\n{tabulate(failures)}")
        return [self._job_return(job, len(failures)) for job in trained_by]

    def _open_job(self, number: int, overrides: Sequence[str]) -> SweepJob:
        cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        HydraConfig.instance().set_config(cfg)
        job = SweepJob(overrides, cfg=cfg if self.context.callbacks.callbacks else None)
        try:
            job.cell = method_label(cfg.method, strategy_name(cfg)), _pair_label(cfg)
            job.plain = resolve_config(cfg) if self.forecast is not None else None
            job.member, job.cohort = _identify(cfg)
            folder = Path(job.member.folder)
            record = find_finished(folder, job.member.key)
        except Exception as error:
            known = known_error(error)
            if known is None:
                raise
            job.outcome = RunStatus("", FAILED, known.exit_code, str(known))
            if job.member is None:
                return job
            record = None
        if self.by_key.setdefault(job.member.key, job) is job and job.outcome is None:
            if record is not None:
                job.outcome = RunStatus(job.member.key, DONE, top1=record.top1_last)
            else:
                with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
                    cfg.hydra.runtime.output_dir = str(folder.absolute())
                job.files = config_files(cfg)
        return job

    def _train(self, jobs: Sequence[SweepJob]) -> None:
        members = [(job.member, job.cohort) for job in jobs if job.member and job.cohort]
        runs = [member.config["run"] for member, _ in members]
        device = "cpu" if all(run["device"] == "cpu" for run in runs) else "auto"
        threads = [run["threads"] for run in runs if run["threads"] is not None]
        slots = self.executor.slots(device, max(threads, default=None))
        groups = form_groups(members, len(slots), self.max_learners)
        now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(members[0][0].config["paths"]["outputs"], "sweeps", f"{now}-{os.getpid()}")
        scheduler = Scheduler(
            self.executor, slots, folder, say, self._begin, self._end, self.fail_fast
        )
        try:
            scheduler.run(groups)
        finally:
            self.executor.close()

    def _begin(self, member: Member) -> RunStatus | None:
        """Prepares the folder of a run and calls the callbacks, as Hydra does before a task.

        Returns:
            A failed outcome if the folder cannot be used, otherwise None.
        """
        job = self.by_key[member.key]
        if job.files is None:  # a retry
            return None
        try:
            write_config(job.files, Path(member.folder))
        except KdbenchError as error:
            return RunStatus(member.key, FAILED, error.exit_code, str(error))
        job.files = None
        self._call_back("on_job_start", job, task_function=self.task_function)
        return None

    def _call_back(self, event: str, job: SweepJob, **arguments: Any) -> None:
        if job.cfg is not None:
            getattr(self.context.callbacks, event)(config=job.cfg, **arguments)

    def _end(self, outcome: RunStatus) -> None:
        job = self.by_key[outcome.key]
        job.outcome = outcome
        if not job.is_done:
            self._report_failure(job)
        self._call_back("on_job_end", job, job_return=self._job_return(job, 1))

    def _report_failure(self, job: SweepJob) -> None:
        assert job.outcome is not None
        say(f"failed (exit code {job.outcome.exit_code}): {job.name}: {job.outcome.reason}")

    def _job_return(self, job: SweepJob, failures: int) -> JobReturn:
        result = JobReturn(
            overrides=list(job.overrides),
            cfg=job.cfg,
            working_dir=os.getcwd(),
            task_name=self.config.hydra.job.name,
            status=JobStatus.COMPLETED if job.is_done else JobStatus.FAILED,
        )
        if self.forecast is not None:
            result.status, result.return_value = JobStatus.COMPLETED, None
        elif job.outcome is not None and job.is_done:
            result.return_value = job.outcome.top1
        else:
            result.return_value = SweepError(
                f"{plural(failures, 'run is', 'runs are')} unfinished; "
                f"the same command trains only the missing runs"
            )
        return result


def _with_progress(job_overrides: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yields the jobs and prints the progress: composing one takes a tenth of a second."""
    last = time.monotonic()
    for number, overrides in enumerate(job_overrides):
        if time.monotonic() - last > PROGRESS_INTERVAL:
            say(f"composing: {number} of {plural(len(job_overrides), 'point')}")
            last = time.monotonic()
        yield overrides


def _pair_label(cfg: DictConfig) -> str:
    return pair_label(cfg.dataset.name, cfg.pair)


def _identify(cfg: DictConfig) -> tuple[Member, CohortKey]:
    plain = resolve_config(cfg)
    key = run_key(plain)
    folder = Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir)
    name = describe(cfg, folder, key).label
    stages = [str(stage) for stage in stage_folders(plain)]
    return Member(name, key, str(folder), plain, stages), cohort_key(plain)


def tabulate(jobs: Sequence[SweepJob]) -> str:
    """One line per unfinished run: name, exit code, reason, log."""
    rows = [("run", "code", "reason", "log")]
    for job in jobs:
        outcome = job.outcome or RunStatus("", FAILED, 0, "not started, or stopped and saved")
        code = str(outcome.exit_code) if outcome.exit_code else "-"
        rows.append(
            (job.name, code, shorten(_first_problem(outcome.reason), 100), outcome.log or "-")
        )
    return align_columns(rows)


def _first_problem(reason: str) -> str:
    """The first line of a reason; of a list of problems, the first problem."""
    lines = reason.strip().splitlines() or [""]
    return lines[1].strip(" -") if lines[0].endswith(":") and len(lines) > 1 else lines[0]
