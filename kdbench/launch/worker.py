"""``python -m kdbench.launch.worker REQUEST``: trains the runs of a group in this process."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kdbench.config.compose import prepare
from kdbench.config.own import find_own_code
from kdbench.errors import (
    ExitCode,
    KdbenchError,
    LockedError,
    MemoryShortageError,
    Preempted,
    TransientError,
    describe_error,
    known_error,
)
from kdbench.launch.group import (
    DONE,
    FAILED,
    HELD,
    RETURNED,
    Member,
    RunStatus,
    read_request,
    report,
)
from kdbench.records.lock import StaleLockError
from kdbench.records.log import LOG, for_run, log_failure, run_log

log = logging.getLogger("kdbench")


def main() -> None:
    """Trains the request on the command line; exits with 75 if stopped by a signal."""
    request = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    find_own_code()
    prepare()
    try:
        work(request, *read_request(request))
    except Preempted as stop:
        log.info("%s", stop)
        sys.exit(stop.exit_code)
    except KdbenchError as error:  # a transient error: another process may succeed
        log.error("error: %s", error)
        sys.exit(error.exit_code)


def work(request: Path, members: Sequence[Member], share: float) -> None:
    """Trains the members together and reports the outcome of each.

    Runs with an invalid config, or that do not fit in memory with the others, are reported and
    left out; the others continue.
    """
    # Imported here, so that the thread above already runs while torch is imported.
    from kdbench.engine.capacity import count_fitting
    from kdbench.engine.job import Job
    from kdbench.engine.run import train_jobs

    with ExitStack() as logs:
        valid = [member for member in members if _is_valid(request, member, logs)]
        jobs = [Job(m.restore_config(), Path(m.folder), m.key) for m in valid]
        count = len(valid)
        try:
            count = count_fitting([job.cfg for job in jobs], share)
            _return_excess(request, valid, count)
            outcomes = train_jobs(jobs[:count])
        except Exception as error:
            known = known_error(error)
            if isinstance(known, TransientError):
                raise known from error  # another process may succeed
            for member in valid[:count]:  # an error of all runs: missing data, a bad teacher, a bug
                _report_error(request, member, error, count)
            return
        for member, outcome in zip(valid, outcomes, strict=False):
            if outcome.error is not None:
                _report_error(request, member, outcome.error, count)
            elif outcome.record is not None:
                log.info("%s", outcome.record.summary(), extra=for_run(member.key))
                report(request, RunStatus(member.key, DONE, top1=outcome.record.top1_last))


def _return_excess(request: Path, members: Sequence[Member], count: int) -> None:
    """Returns the runs that do not fit in memory, and logs the others."""
    for member in members[count:]:
        report(request, RunStatus(member.key, RETURNED))
    if count < len(members):
        log.info("%d of %d runs fit in memory at once", count, len(members))
    if count > 1:
        names = ", ".join(member.name for member in members[:count])
        log.info("%d runs share data and teacher: %s", count, names)


def _is_valid(request: Path, member: Member, logs: ExitStack) -> bool:
    from kdbench.config.check import check
    from kdbench.engine.job import Job
    from kdbench.engine.run import note_failure

    folder = Path(member.folder)
    try:
        logs.enter_context(run_log(folder, member.key))
        cfg = member.restore_config()
        try:
            check(cfg)
        except Exception as error:
            note_failure(Job(cfg, folder, member.key), error)
            raise
    except Exception as error:
        _report_error(request, member, error, 1)
        return False
    return True


def _report_error(request: Path, member: Member, error: Exception, num_runs: int) -> None:
    """Reports a run that has not finished: to be retried, waited for, or failed.

    Args:
        request: names the files.
        member: the run.
        error: the cause.
        num_runs: number of runs trained at once, including this one.
    """
    known = known_error(error)
    if isinstance(known, MemoryShortageError) and num_runs > 1:
        log.info("%s did not fit in memory with the others; it will be retried", member.name)
        report(request, RunStatus(member.key, RETURNED))
        return
    if isinstance(known, LockedError) and not isinstance(known, StaleLockError):
        report(request, RunStatus(member.key, HELD, reason=str(known)))
        return
    path = str(Path(member.folder) / LOG)
    log_failure(Path(member.folder), error)
    code = known.exit_code if known is not None else ExitCode.BUG
    report(request, RunStatus(member.key, FAILED, code, describe_error(error), log=path))


def _exit_with_parent() -> None:
    """Stops this process when the launcher dies, which closes its standard input."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
