"""``hydra.launcher.dry=true``: what a sweep would train and cost; nothing is trained."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import KdbenchError
from kdbench.results.forecast import write_forecast
from kdbench.results.plan import BEGUN, DONE, FAILED, MISSING, UNKNOWN, Plan, PlannedRun
from kdbench.results.record import FILE

if TYPE_CHECKING:
    from kdbench.launch.sweep import SweepJob

SHOWN = 50  # runs by name


def forecast_sweep(jobs: Sequence["SweepJob"], standing: Sequence["SweepJob"]) -> str:
    """The cells of a sweep with states and costs, the runs that are missing, and what is wrong.

    Args:
        jobs: in the order of the sweep.
        standing: for each, the one that stands for its run.
    """
    planned = [
        PlannedRun(job.cell, job.plain["seed"], job.plain, _identity(stands), _state(stands))
        for job, stands in zip(jobs, standing, strict=True)
        if job.plain is not None
    ]
    reasons = {job.outcome.reason for job in jobs if job.outcome is not None and not job.is_done}
    plan = Plan("dry run", planned, sorted(reasons))
    parts = [_list_missing(standing), _estimate(plan), "nothing was trained: hydra.launcher.dry"]
    return "\n\n".join(filter(None, parts))


def _identity(job: "SweepJob") -> str:
    return job.member.key if job.member is not None else " ".join(job.overrides)


def _state(job: "SweepJob") -> str:
    if job.is_done:
        return DONE
    if job.member is None or job.outcome is not None:
        return UNKNOWN
    folder = Path(job.member.folder)
    if (folder / FILE).exists():
        return FAILED
    return BEGUN if (folder / ".hydra").exists() else MISSING


def _list_missing(standing: Sequence["SweepJob"]) -> str:
    distinct = {id(job): job for job in standing}.values()
    missing = [job for job in distinct if job.member is not None and job.outcome is None]
    if not missing:
        return ""
    lines = [f"{job.name}: {' '.join(job.overrides)}" for job in missing[:SHOWN]]
    more = [f"... and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
    return "\n".join(["to be trained:", *lines, *more])


def _estimate(plan: Plan) -> str:
    if not plan.runs:
        return ""
    from kdbench.engine.speed import Speeds  # imports torch

    try:
        speeds = Speeds(plan.runs[0].config, note=lambda text: print(text, file=sys.stderr))
        return f"{write_forecast(plan, speeds.of)}\n\nmachine: {speeds.machine}"
    except KdbenchError as error:
        return f"no estimate: {error}"
