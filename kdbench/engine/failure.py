"""The record of a run that failed before its first epoch."""

import logging

from kdbench.config.build import build
from kdbench.config.identity import (
    dataset_digest,
    describe,
    known_before,
    needs_teacher,
    resolve_config,
)
from kdbench.engine.job import Job
from kdbench.engine.journal import ForeignFolderError
from kdbench.errors import CheckpointError, KdbenchError, describe_error
from kdbench.model.compute import current_threads
from kdbench.model.profile import count_parameters
from kdbench.records.convergence import summarise_convergence
from kdbench.records.environment import describe_environment, timestamp
from kdbench.records.record import RunRecord, read_record
from kdbench.tracker.redact import redact

log = logging.getLogger(__name__)


def record_failure(job: Job, error: Exception, command: list[str]) -> None:
    """Records that a run failed and why, unless a better record exists.

    The caller must hold the folder's lock. Never raises, so as not to hide the original error.
    """
    if isinstance(error, ForeignFolderError) or _has_better_record(job):
        return
    try:
        _make_record(job, error, command).write(job.folder)
    except (KdbenchError, OSError) as problem:
        log.warning("could not record the failure: %s", problem)


def _has_better_record(job: Job) -> bool:
    try:
        found = read_record(job.folder)
    except FileNotFoundError:
        return False
    except (CheckpointError, OSError):  # damaged or from a newer version: keep it for inspection
        return True
    return found.run_key != job.key or found.status == "done" or found.epochs_done > 0


def _make_record(job: Job, error: Exception, command: list[str]) -> RunRecord:
    cfg, identity = job.cfg, describe(job.cfg, job.folder, job.key)
    now = timestamp()
    has_teacher = needs_teacher(cfg)
    return RunRecord(
        **known_before(cfg, identity),
        status="failed",
        reason=describe_error(error),
        teacher=cfg.teacher.model.arch if has_teacher else None,
        precision=cfg.run.precision,
        epochs_done=0,
        top1_last=None,
        top1_best=None,
        val_top1_last=None,
        val_top1_best=None,
        test={},
        convergence=summarise_convergence([], "test/top1"),
        teacher_top1=None,
        teacher_digest=None,
        dataset_digest=dataset_digest(cfg),
        weights_digest=None,
        metrics_digest=None,
        parameters=_parameters(job),
        seconds=0.0,
        images_per_s=None,
        peak_memory_mb=0.0,
        attempts=1,
        cohort_size=1,
        teacher_memo=None,
        teacher_config=resolve_config(cfg)["teacher"] if has_teacher else None,
        device=cfg.run.device,
        threads=current_threads(),
        started=now,
        finished=now,
        command=redact(command),
        environment=describe_environment(),
    )


def _parameters(job: Job) -> int:
    try:
        return count_parameters(build(job.cfg.student))
    except Exception:  # possibly the reason for the failure
        return 0
