"""Trains jobs and writes their records. A single run, or a teacher, is a list of one job."""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from kdbench import fault
from kdbench.config.compose import save_config
from kdbench.config.identity import (
    initial_weights_digest,
    known_before,
    needs_teacher,
    resolve_config,
    run_key,
    teacher_file,
    teacher_job,
)
from kdbench.config.stage import AUTO, name_teacher
from kdbench.config.weights import find_record
from kdbench.data.base import DataModule
from kdbench.data.sanity import check_result, check_setup
from kdbench.digest import file_digest, state_digest
from kdbench.engine.assemble import (
    load_teacher,
    open_data,
    open_logit_cache,
    open_memo,
    prepare_run,
)
from kdbench.engine.failure import record_failure
from kdbench.engine.job import Job, Outcome
from kdbench.engine.metrics import evaluate_logits
from kdbench.engine.setting import find_setting
from kdbench.engine.timesheet import summarise_time
from kdbench.engine.trainer import Run, Trainer
from kdbench.errors import (
    CheckpointError,
    KdbenchError,
    MemoryShortageError,
    Preempted,
    ResourceError,
    TransientError,
    describe_error,
    known_error,
)
from kdbench.files import remove_abandoned
from kdbench.model.checkpoint import save_weights
from kdbench.model.compute import Compute, configure_compute, read_flags, set_threads
from kdbench.model.profile import count_parameters
from kdbench.records.convergence import summarise_convergence
from kdbench.records.environment import describe_environment, timestamp
from kdbench.records.identity import TEACHER
from kdbench.records.lock import run_lock
from kdbench.records.log import for_run, log_failure, run_log
from kdbench.records.record import METRICS, WEIGHTS, RunRecord, find_finished
from kdbench.teacher.teacher import Teacher, require_accuracy
from kdbench.tracker.display import Display
from kdbench.tracker.redact import redact

log = logging.getLogger(__name__)

# Record fields that are None for runs without a teacher.
TEACHER_FIELDS = ("teacher_top1", "teacher_memo", "teacher_config")


def train_job(cfg: DictConfig, folder: Path) -> RunRecord:
    """Trains or resumes one run; if it is finished, returns its record.

    Raises:
        KdbenchError: the run failed; see ``kdbench.errors`` for the kinds.
        Preempted: a signal stopped the run; its state is saved.
    """
    outcome = train_jobs([Job(cfg, folder, run_key(cfg))])[0]
    return _require_record(outcome)


def train_jobs(jobs: Sequence[Job], patience: float = 0.0) -> list[Outcome]:
    """Trains runs that share data, teacher, epochs, precision and data seed, in one pass.

    Args:
        jobs: each with its own folder; finished ones are not repeated.
        patience: seconds to wait for a folder that another process has locked.

    Returns:
        One outcome per job, in order. Errors of a single run are in its outcome; errors that
        affect all runs, such as missing data, are raised.
    """
    outcomes: dict[Path, Outcome] = {}
    with ExitStack() as locks:
        for job in jobs:
            try:
                record = find_finished(job.folder, job.key)  # first, as locking writes a file
                if record is None:
                    locks.enter_context(run_lock(job.folder, patience))
                    record = find_finished(job.folder, job.key)
            except KdbenchError as error:
                outcomes[job.folder] = Outcome(None, error)
                continue
            if record is not None:
                outcomes[job.folder] = Outcome(record)
        unfinished = [job for job in jobs if job.folder not in outcomes]
        if unfinished:
            outcomes |= _train_locked(unfinished)
        return [outcomes[job.folder] for job in jobs]


def _train_locked(jobs: Sequence[Job]) -> dict[Path, Outcome]:
    """Trains jobs whose folders are locked; records an error that affects all of them.

    Not recorded are errors that a retry may avoid, with fewer runs at once or on another device.
    """
    try:
        return _train(jobs)
    except Exception as error:
        reason, known = error, known_error(error)
        if isinstance(known, MemoryShortageError):
            reason = MemoryShortageError(f"{known} ({_describe_size(jobs)})")
        can_retry = isinstance(known, MemoryShortageError | TransientError)
        if len(jobs) == 1 or not can_retry:
            for job in jobs:
                record_failure(job, reason, _command(job))
        if reason is error:
            raise
        raise reason from error


def note_failure(job: Job, error: Exception) -> None:
    """Records that a run failed before training, unless another process has locked its folder."""
    with suppress(KdbenchError), run_lock(job.folder):
        record_failure(job, error, _command(job))


def _describe_size(jobs: Sequence[Job]) -> str:
    first = jobs[0].cfg
    students = ", ".join(sorted({job.cfg.student.arch for job in jobs}))
    return (
        f"dataset.batch_size={first.dataset.batch_size}, "
        f"dataset.eval_batch_size={first.dataset.eval_batch_size}, runs at once: {len(jobs)}, "
        f"students: {students}, teacher: {first.teacher.model.arch}"
    )


def _require_record(outcome: Outcome) -> RunRecord:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.record is not None
    return outcome.record


def obtain_teacher_file(cfg: DictConfig) -> tuple[Path, str | None]:
    """The teacher's weight file, and the digest of its weights if a record has it.

    With ``teacher.weights=auto`` the teacher is trained first, once for all runs that need it,
    preceded by its own teacher if its recipe has one.

    Raises:
        CheckpointError: ``teacher.weights`` does not resolve to a file.
    """
    if cfg.teacher.weights != AUTO:
        plain = resolve_config(cfg)
        known = find_record(plain)
        return teacher_file(plain), known.weights_digest if known is not None else None
    training, folder, key = teacher_job(cfg)
    record = find_finished(folder, key)
    if record is None:
        log.info("training the teacher %s in %s", name_teacher(cfg.teacher), folder)
        save_config(training, folder)
        with run_log(folder, key):
            record = _require_record(train_jobs([Job(training, folder, key)], math.inf)[0])
    return folder / WEIGHTS, record.weights_digest


def _train(jobs: Sequence[Job]) -> dict[Path, Outcome]:
    """Trains unfinished jobs."""
    started = timestamp()
    shared_cfg = jobs[0].cfg  # for everything that the jobs have in common
    distilled = next((job.cfg for job in jobs if needs_teacher(job.cfg)), None)
    weights = obtain_teacher_file(distilled) if distilled is not None else None
    threads = set_threads(shared_cfg.run.threads)
    compute = configure_compute(shared_cfg)
    remove_abandoned(Path(shared_cfg.paths.cache))
    data = open_data(shared_cfg, compute)
    teacher, teacher_top1 = None, None
    if distilled is not None and weights is not None:
        teacher, teacher_top1 = _load_checked_teacher(distilled, *weights, data, compute, threads)
    fault.point("teacher:ready")
    runs, outcomes = _prepare_runs(jobs, teacher, data, compute)
    if teacher is not None and distilled is not None:
        objectives = [run.learner.objective for run in runs.values()]
        readers = [objective for objective in objectives if objective.needs_teacher]
        teacher.memo = open_memo(distilled, teacher.digest, data, compute, readers)
    for job, run in runs.items():
        has_teacher = needs_teacher(job.cfg)
        for text in check_setup(job.cfg, data, teacher_top1 if has_teacher else None):
            run.journal.warn(text)
    epochs, protocol = shared_cfg.run.epochs, shared_cfg.run.protocol
    trainer = Trainer(
        teacher,
        list(runs.values()),
        data,
        epochs=epochs,
        protocol=protocol,
        compute=compute,
        checkpoint_minutes=shared_cfg.run.checkpoint_minutes,
        display=Display(epochs, data.steps_per_epoch, {run.key: run.name for run in runs.values()}),
    )
    cohort_facts = {
        "cohort_size": len(runs),
        "device": str(compute.device),
        "threads": threads,
        "started": started,
        "environment": describe_environment() | {"batch_norm": compute.batch_norm} | read_flags(),
        "dataset_digest": data.digest,
        "teacher_top1": teacher_top1,
        "test_samples": data.eval_sizes["test"],
        "teacher_config": resolve_config(distilled)["teacher"] if distilled is not None else None,
    }
    with _trackers_closed(list(runs.values())):
        trainer.fit()
        cohort_facts["teacher_memo"] = teacher.memo_report() if teacher else None
        tests = trainer.test_metrics(protocol)
        cohort_facts["peak_memory_mb"] = compute.peak_memory_mb()
        for (job, run), test in zip(runs.items(), tests, strict=True):
            # Time of the final evaluation and checkpoint, after the last epoch's row.
            rest = summarise_time(trainer.times.take(run))
            for text in check_result(test.get("top1"), data.num_classes):
                run.journal.warn(text)
            outcomes[job.folder] = _end(job, run, test, cohort_facts, rest)
    return outcomes


def _end(
    job: Job,
    run: Run,
    test: dict[str, float],
    cohort_facts: dict[str, Any],
    rest: dict[str, float],
) -> Outcome:
    """Concludes a run; file errors fail this run only."""
    if cohort_facts["cohort_size"] > 1 and isinstance(run.error, MemoryShortageError):
        return Outcome(None, run.error)  # not failed: it may fit in a smaller cohort
    try:
        return _conclude(job, run, test, cohort_facts, rest)
    except (KdbenchError, OSError) as error:
        cause = run.error or error
        log_failure(job.folder, cause)
        record_failure(job, cause, _command(job))
        return Outcome(None, cause)


def _prepare_runs(
    jobs: Sequence[Job], teacher: Teacher | None, data: DataModule, compute: Compute
) -> tuple[dict[Job, Run], dict[Path, Outcome]]:
    """Runs that are ready to train, and the outcomes of those that failed to start."""
    runs, outcomes = {}, {}
    for job in jobs:
        try:
            runs[job] = prepare_run(job.cfg, job.folder, job.key, teacher, data, compute)
            _log_setting(job, runs[job])
        except Exception as error:
            if isinstance(known_error(error), TransientError):
                raise
            log_failure(job.folder, error)
            if len(jobs) == 1 or not isinstance(known_error(error), MemoryShortageError):
                record_failure(job, error, _command(job))
            outcomes[job.folder] = Outcome(None, error)
    return runs, outcomes


def _load_checked_teacher(
    cfg: DictConfig,
    file: Path,
    digest: str | None,
    data: DataModule,
    compute: Compute,
    threads: int,
) -> tuple[Teacher, float]:
    teacher, weights = load_teacher(cfg, file, compute)
    if digest is not None and teacher.digest != digest:
        raise CheckpointError(
            f"{file} is damaged: expected weights with the digest {digest}, found "
            f"{teacher.digest}; remove {file.parent} to train the teacher again"
        )
    teacher.cache = open_logit_cache(cfg, teacher.digest, data, compute, threads)
    logits, targets = teacher.split_logits(data, "test")
    top1 = evaluate_logits(logits, targets, None)["top1"]
    expected = weights.top1 if cfg.teacher.expected_top1 is None else cfg.teacher.expected_top1
    require_accuracy(top1, expected, cfg.teacher.tolerance, data.num_classes, str(file))
    note = "" if expected is None else f" (expected {expected:.2f} %)"
    log.info("teacher %s: top-1 %.2f %%%s, from %s", cfg.teacher.model.arch, top1, note, file)
    return teacher, top1


def _conclude(
    job: Job, run: Run, test: dict[str, float], cohort_facts: dict[str, Any], rest: dict[str, float]
) -> Outcome:
    """Writes the final weights, then the record, then closes the tracker."""
    journal, student, failed = run.journal, run.learner.student, run.error is not None
    cfg, identity, rows = job.cfg, run.journal.identity, run.journal.rows
    metrics = job.folder / METRICS
    strict = cfg.run.protocol == "strict"
    weights_digest = None
    if failed:
        with suppress(ResourceError):  # the disk may be full, which may be why it failed
            journal.write_tables()
    else:
        weights_digest = state_digest(student.state_dict())
        save_weights(
            job.folder / WEIGHTS,
            student.state_dict(),
            {
                "arch": cfg.student.arch,
                "dataset": identity.dataset,
                "method": identity.method,
                "top1": repr(test["top1"]),
                "run_key": job.key,
            },
        )
        fault.point("record:begin")
    record = RunRecord(
        **known_before(cfg, identity),
        status="failed" if failed else "done",
        reason=describe_error(run.error) if run.error is not None else None,
        teacher=cfg.teacher.model.arch if journal.teacher_digest else None,
        precision=run.learner.compute.precision,
        epochs_done=len(rows),
        top1_last=test.get("top1"),
        top1_best=journal.best if rows and not strict else None,
        val_top1_last=rows[-1]["val/top1"] if rows and strict else None,
        val_top1_best=journal.best if rows and strict else None,
        test=test,
        convergence=summarise_convergence(rows, journal.selection),
        teacher_digest=journal.teacher_digest,
        weights_digest=weights_digest,
        initial_digest=initial_weights_digest(cfg),
        best_digest=journal.best_digest,
        metrics_digest=file_digest(metrics) if metrics.is_file() else None,
        parameters=count_parameters(student),
        **_sum_times(journal.timings, rest),
        **_setting(job),
        images_per_s=journal.timings[-1]["perf/images_per_s"] if rows else None,
        command=redact(_command(job)),
        attempts=journal.attempts,
        warnings=journal.warnings,
        finished=timestamp(),
        **_facts_of(run, cohort_facts),
    )
    record.write(job.folder)
    fault.point("record:written")
    journal.tracker.finish(record.status, record.numbers())
    return Outcome(record, run.error)


def _facts_of(run: Run, cohort_facts: dict[str, Any]) -> dict[str, Any]:
    """The cohort's facts, without those that do not apply to this run."""
    if not run.journal.teacher_digest:
        return cohort_facts | dict.fromkeys(TEACHER_FIELDS)
    if run.learner.with_features is not None:  # the memo has only logits
        return cohort_facts | {"teacher_memo": None}
    return cohort_facts


def _sum_times(timings: Sequence[dict[str, float]], rest: dict[str, float]) -> dict[str, Any]:
    """Total times over all epochs; None if an epoch lacks one."""
    found = {}
    for name, value in rest.items():
        known = [timing[f"perf/{name}"] for timing in timings if f"perf/{name}" in timing]
        found[name] = sum(known) + value if len(known) == len(timings) else None
    return found


def _setting(job: Job) -> dict[str, Any]:
    if job.cfg.role == TEACHER:
        return {}
    return find_setting(job.cfg).facts()


def _log_setting(job: Job, run: Run) -> None:
    """Logs the run's setting."""
    if job.cfg.role == TEACHER:
        return
    setting = find_setting(job.cfg)
    level = logging.WARNING if setting.is_borrowed else logging.INFO
    log.log(level, "%s", setting.describe(job.cfg), extra=for_run(run.key))


def _command(job: Job) -> list[str]:
    """The command that trains this run alone, from the overrides that Hydra saved, if any.

    ``sys.argv`` of a sweep's worker is not that command.
    """
    saved = job.folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        return sys.argv
    overrides = OmegaConf.to_container(OmegaConf.load(saved), resolve=False)  # keeps ${oc.env:X}
    return ["kdbench-train", *map(str, cast(list, overrides))]


@contextmanager
def _trackers_closed(runs: Sequence[Run]) -> Iterator[None]:
    """Closes all trackers: an open W&B run would capture the logs of the next one."""
    status = "failed"
    try:
        yield
    except Preempted:
        status = "preempted"
        raise
    finally:
        for run in runs:
            run.journal.tracker.finish(status, {})  # a no-op if already closed
