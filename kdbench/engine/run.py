"""From configs to records. A single run is a list of one; so is the run that trains a teacher."""

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
    open_answers,
    open_data,
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

# None in records of runs that do not ask it
OF_TEACHER = ("teacher_top1", "teacher_memo", "teacher_config")


def train_job(cfg: DictConfig, folder: Path) -> RunRecord:
    """Trains one run, continues it, or returns the record of the finished one.

    Raises:
        KdbenchError: what kept it from its end; see ``kdbench.errors`` for the kinds.
        Preempted: it was asked to stop, and is saved.
    """
    outcome = train_jobs([Job(cfg, folder, run_key(cfg))])[0]
    return _require_record(outcome)


def train_jobs(jobs: Sequence[Job], patience: float = 0.0) -> list[Outcome]:
    """Trains runs that share data, teacher, epochs, precision and data seed, in one pass.

    Args:
        jobs: with folders of their own; finished ones are not repeated.
        patience: seconds to wait for another process that holds one of the folders.

    Returns:
        One outcome per job, in order. What befalls one run alone is in its outcome; what befalls
        all of them, such as missing data, is raised.
    """
    outcomes: dict[Path, Outcome] = {}
    with ExitStack() as locks:
        for job in jobs:
            try:
                record = find_finished(job.folder, job.key)  # before anything is written there
                if record is None:
                    locks.enter_context(run_lock(job.folder, patience))
                    record = find_finished(job.folder, job.key)
            except KdbenchError as error:
                outcomes[job.folder] = Outcome(None, error)
                continue
            if record is not None:
                outcomes[job.folder] = Outcome(record)
        waiting = [job for job in jobs if job.folder not in outcomes]
        if waiting:
            outcomes |= _train_held(waiting)
        return [outcomes[job.folder] for job in jobs]


def _train_held(jobs: Sequence[Job]) -> dict[Path, Outcome]:
    """Trains jobs whose folders this process holds; what befalls all of them is in their records.

    What another process may do better is not: with fewer runs at once, or on another device.
    """
    try:
        return _train(jobs)
    except Exception as error:
        reason, known = error, known_error(error)
        if isinstance(known, MemoryShortageError):
            reason = MemoryShortageError(f"{known} ({_describe_size(jobs)})")
        again = isinstance(known, MemoryShortageError | TransientError)
        if len(jobs) == 1 or not again:
            for job in jobs:
                record_failure(job, reason, _command(job))
        if reason is error:
            raise
        raise reason from error


def note_failure(job: Job, error: Exception) -> None:
    """Records that a run failed before it could be trained, if nobody else works on it."""
    with suppress(KdbenchError), run_lock(job.folder):
        record_failure(job, error, _command(job))


def _describe_size(jobs: Sequence[Job]) -> str:
    lead = jobs[0].cfg
    students = ", ".join(sorted({job.cfg.student.arch for job in jobs}))
    return (
        f"dataset.batch_size={lead.dataset.batch_size}, "
        f"dataset.eval_batch_size={lead.dataset.eval_batch_size}, runs at once: {len(jobs)}, "
        f"students: {students}, teacher: {lead.teacher.model.arch}"
    )


def _require_record(outcome: Outcome) -> RunRecord:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.record is not None
    return outcome.record


def obtain_teacher_file(cfg: DictConfig) -> tuple[Path, str | None]:
    """The teacher's weight file, and the digest of its weights where a record names it.

    With ``teacher.weights=auto`` the teacher is trained first, once for all runs that need it; so
    is the teacher of that training, if its recipe has one.

    Raises:
        CheckpointError: ``teacher.weights`` leads to no file.
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
    """Trains jobs none of which is finished."""
    started = timestamp()
    lead = jobs[0].cfg  # for everything that the jobs share
    taught = next((job.cfg for job in jobs if needs_teacher(job.cfg)), None)
    weights = obtain_teacher_file(taught) if taught is not None else None
    threads = set_threads(lead.run.threads)
    compute = configure_compute(lead)
    remove_abandoned(Path(lead.paths.cache))
    data = open_data(lead, compute)
    teacher, teacher_top1 = None, None
    if taught is not None and weights is not None:
        teacher, teacher_top1 = _load_checked_teacher(taught, *weights, data, compute, threads)
    fault.point("teacher:ready")
    runs, outcomes = _prepare_runs(jobs, teacher, data, compute)
    if teacher is not None and taught is not None:
        objectives = [run.learner.objective for run in runs.values()]
        readers = [objective for objective in objectives if objective.needs_teacher]
        teacher.memo = open_memo(taught, teacher.digest, data, compute, readers)
    for job, run in runs.items():
        asks = needs_teacher(job.cfg)
        for text in check_setup(job.cfg, data, teacher_top1 if asks else None):
            run.journal.warn(text)
    trainer = Trainer(
        teacher,
        list(runs.values()),
        data,
        epochs=lead.run.epochs,
        protocol=lead.run.protocol,
        compute=compute,
        checkpoint_minutes=lead.run.checkpoint_minutes,
        display=Display(
            lead.run.epochs, data.steps_per_epoch, {run.key: run.name for run in runs.values()}
        ),
    )
    circumstances = {
        "cohort_size": len(runs),
        "device": str(compute.device),
        "threads": threads,
        "started": started,
        "environment": describe_environment() | {"batch_norm": compute.batch_norm} | read_flags(),
        "dataset_digest": data.digest,
        "teacher_top1": teacher_top1,
        "test_samples": data.eval_sizes["test"],
        "teacher_config": resolve_config(taught)["teacher"] if taught is not None else None,
    }
    with _trackers_closed(list(runs.values())):
        trainer.fit()
        circumstances["teacher_memo"] = teacher.memo_report() if teacher else None
        tests = trainer.test_metrics(lead.run.protocol)
        circumstances["peak_memory_mb"] = compute.peak_memory_mb()
        for (job, run), test in zip(runs.items(), tests, strict=True):
            # The final evaluation and the last checkpoint came after the last epoch's row.
            rest = summarise_time(trainer.times.take(run))
            for text in check_result(test.get("top1"), data.num_classes):
                run.journal.warn(text)
            outcomes[job.folder] = _end(job, run, test, circumstances, rest)
    return outcomes


def _end(
    job: Job,
    run: Run,
    test: dict[str, float],
    circumstances: dict[str, Any],
    rest: dict[str, float],
) -> Outcome:
    """Concludes a run; what goes wrong with its files is its own affair."""
    if circumstances["cohort_size"] > 1 and isinstance(run.error, MemoryShortageError):
        return Outcome(None, run.error)  # not failed: beside fewer others it may fit
    try:
        return _conclude(job, run, test, circumstances, rest)
    except (KdbenchError, OSError) as error:
        cause = run.error or error
        log_failure(job.folder, cause)
        record_failure(job, cause, _command(job))
        return Outcome(None, cause)


def _prepare_runs(
    jobs: Sequence[Job], teacher: Teacher | None, data: DataModule, compute: Compute
) -> tuple[dict[Job, Run], dict[Path, Outcome]]:
    """The runs that can go on from where they are, and what keeps the others from it."""
    runs, outcomes = {}, {}
    for job in jobs:
        try:
            runs[job] = prepare_run(job.cfg, job.folder, job.key, teacher, data, compute)
            _tell_setting(job, runs[job])
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
            f"{file} is damaged: its weights should have the digest {digest}, found "
            f"{teacher.digest}; remove {file.parent} to train the teacher again"
        )
    teacher.files = open_answers(cfg, teacher.digest, data, compute, threads)
    logits, targets = teacher.split_logits(data, "test")
    top1 = evaluate_logits(logits, targets, None)["top1"]
    expected = weights.top1 if cfg.teacher.expected_top1 is None else cfg.teacher.expected_top1
    require_accuracy(top1, expected, cfg.teacher.tolerance, data.num_classes, str(file))
    told = "" if expected is None else f" (expected {expected:.2f} %)"
    log.info("teacher %s: top-1 %.2f %%%s, from %s", cfg.teacher.model.arch, top1, told, file)
    return teacher, top1


def _conclude(
    job: Job, run: Run, test: dict[str, float], shared: dict[str, Any], rest: dict[str, float]
) -> Outcome:
    """Writes the final weights, then the record, then closes the tracker."""
    journal, student, failed = run.journal, run.learner.student, run.error is not None
    cfg, identity, rows = job.cfg, run.journal.identity, run.journal.rows
    metrics = job.folder / METRICS
    strict = cfg.run.protocol == "strict"
    weights_digest = None
    if failed:
        with suppress(ResourceError):  # it may have failed because nothing can be written
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
        **_circumstances_of(run, shared),
    )
    record.write(job.folder)
    fault.point("record:written")
    journal.tracker.finish(record.status, record.numbers())
    return Outcome(record, run.error)


def _circumstances_of(run: Run, shared: dict[str, Any]) -> dict[str, Any]:
    """Those of its cohort, without what this run made no use of."""
    if not run.journal.teacher_digest:
        return shared | dict.fromkeys(OF_TEACHER)
    if run.learner.with_features is not None:  # a memo keeps logits alone
        return shared | {"teacher_memo": None}
    return shared


def _sum_times(timings: Sequence[dict[str, float]], rest: dict[str, float]) -> dict[str, Any]:
    """The times of all epochs; None where not all of them have one."""
    found = {}
    for name, value in rest.items():
        known = [timing[f"perf/{name}"] for timing in timings if f"perf/{name}" in timing]
        found[name] = sum(known) + value if len(known) == len(timings) else None
    return found


def _setting(job: Job) -> dict[str, Any]:
    if job.cfg.role == TEACHER:
        return {}
    return find_setting(job.cfg).facts()


def _tell_setting(job: Job, run: Run) -> None:
    """Says in the run's log which setting it has."""
    if job.cfg.role == TEACHER:
        return
    setting = find_setting(job.cfg)
    level = logging.WARNING if setting.is_borrowed else logging.INFO
    log.log(level, "%s", setting.describe(job.cfg), extra=for_run(run.key))


def _command(job: Job) -> list[str]:
    """What one types to train this run and no other; a sweep's worker was started by its launcher.

    Hydra wrote down the overrides of the run, if it started it.
    """
    saved = job.folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        return sys.argv
    typed = OmegaConf.to_container(OmegaConf.load(saved), resolve=False)  # ${oc.env:X} as it stands
    return ["kdbench-train", *map(str, cast(list, typed))]


@contextmanager
def _trackers_closed(runs: Sequence[Run]) -> Iterator[None]:
    """An open W&B run would swallow what the next one in this process logs."""
    status = "failed"
    try:
        yield
    except Preempted:
        status = "preempted"
        raise
    finally:
        for run in runs:
            run.journal.tracker.finish(status, {})  # nothing where it is closed already
