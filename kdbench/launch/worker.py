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
from kdbench.engine.runlog import LOG, log_traceback, run_log
from kdbench.errors import LoaderError, Preempted, describe_error, known_error
from kdbench.launch.group import DONE, FAILED, RETURNED, Member, Outcome, read_request, report

PATIENCE = 30.0  # seconds for a worker that is being stopped to leave a run's folder

log = logging.getLogger("kdbench")


def main() -> None:
    """Trains the request named on the command line; exit code 75 where it was asked to stop."""
    request = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    find_own_code()
    prepare()
    try:
        work(request, *read_request(request))
    except Preempted as stop:
        log.info("%s", stop)
        sys.exit(stop.exit_code)
    except LoaderError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)


def work(request: Path, members: Sequence[Member], share: float) -> None:
    """Trains the members together and reports what became of each.

    A run whose config is wrong, or that does not fit into memory beside the others, is left out
    and reported; the others go on.
    """
    # Imported here, so that the thread above listens while torch is being loaded.
    from kdbench.engine.capacity import count_fitting
    from kdbench.engine.run import Job, train_jobs

    with ExitStack() as logs:
        for member in members:
            logs.enter_context(run_log(Path(member.folder), member.name))
        sound = [member for member in members if _is_sound(request, member)]
        jobs = [Job(m.restore_config(), Path(m.folder), m.key) for m in sound]
        count = len(sound)
        try:
            count = count_fitting([job.cfg for job in jobs], share)
            _hand_back(request, sound, count)
            outcomes = train_jobs(jobs[:count], PATIENCE)
        except Exception as error:
            known = known_error(error)
            if known is None and "CUDA" in str(error):
                raise  # the device is gone; another process may train this, elsewhere
            if isinstance(known, LoaderError):
                raise known from error  # the same: another attempt may succeed
            for member in sound[:count]:  # what befalls all: missing data, a bad teacher, a bug
                log_traceback(Path(member.folder), error)
                _report_failure(request, member, error)
            return
        for member, outcome in zip(sound, outcomes, strict=False):
            if outcome.error is not None:
                _report_failure(request, member, outcome.error)
            elif outcome.record is not None:
                log.info("%s", outcome.record.summary())
                report(request, Outcome(member.key, DONE, top1=outcome.record.top1_last))


def _hand_back(request: Path, members: Sequence[Member], count: int) -> None:
    """Hands back those that do not fit, and says who of the others shares what."""
    for member in members[count:]:
        report(request, Outcome(member.key, RETURNED))
    if count < len(members):
        log.info("memory is enough for %d of %d runs at once", count, len(members))
    if count > 1:
        names = ", ".join(member.name for member in members[:count])
        log.info("%d runs share data and teacher: %s", count, names)


def _is_sound(request: Path, member: Member) -> bool:
    from kdbench.config.check import check

    try:
        check(member.restore_config())
    except Exception as error:
        log_traceback(Path(member.folder), error)
        _report_failure(request, member, error)
        return False
    return True


def _report_failure(request: Path, member: Member, error: Exception) -> None:
    known, path = known_error(error), str(Path(member.folder) / LOG)
    code = known.exit_code if known is not None else 1
    report(request, Outcome(member.key, FAILED, code, describe_error(error), log=path))


def _leave_with_parent() -> None:
    """Standard input closes when the launcher dies: then nobody waits for this process."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
