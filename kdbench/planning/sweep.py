"""``hydra.launcher.dry=true``: what a sweep would train, and its cost; trains nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kdbench.errors import KdbenchError
from kdbench.planning.forecast import write_forecast
from kdbench.planning.plan import BEGUN, DONE, FAILED, MISSING, UNKNOWN, PlannedRun, TablePlan
from kdbench.records.record import FILE
from kdbench.words import list_some, say

SHOWN = 50  # runs by name


class PricedJob(Protocol):
    """The attributes of a sweep's job that an estimate needs: see ``kdbench.launch.sweep``."""

    overrides: Sequence[str]
    member: Any
    outcome: Any
    cell: tuple[str, str]
    plain: dict[str, Any] | None

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def is_done(self) -> bool: ...  # noqa: D102


def forecast_sweep(jobs: Sequence[PricedJob], standing: Sequence[PricedJob]) -> str:
    """The cells of a sweep with states and costs, the missing runs, and any problems.

    Args:
        jobs: in the order of the sweep.
        standing: for each, the job that represents its run; duplicates share one.
    """
    planned = [
        PlannedRun(job.cell, job.plain["seed"], job.plain, _identity(stands), _state(stands))
        for job, stands in zip(jobs, standing, strict=True)
        if job.plain is not None
    ]
    reasons = {job.outcome.reason for job in jobs if job.outcome is not None and not job.is_done}
    plan = TablePlan("dry run", planned, sorted(reasons))
    parts = [_list_missing(standing), _estimate(plan), "nothing was trained: hydra.launcher.dry"]
    return "\n\n".join(filter(None, parts))


def _identity(job: PricedJob) -> str:
    return job.member.key if job.member is not None else " ".join(job.overrides)


def _state(job: PricedJob) -> str:
    if job.is_done:
        return DONE
    if job.member is None or job.outcome is not None:
        return UNKNOWN
    folder = Path(job.member.folder)
    if (folder / FILE).exists():
        return FAILED
    return BEGUN if (folder / ".hydra").exists() else MISSING


def _list_missing(standing: Sequence[PricedJob]) -> str:
    distinct = {id(job): job for job in standing}.values()
    missing = [job for job in distinct if job.member is not None and job.outcome is None]
    if not missing:
        return ""
    lines = [f"{job.name}: {' '.join(job.overrides)}" for job in missing]
    return "\n".join(["to be trained:", list_some(lines, SHOWN, between="\n")])


def _estimate(plan: TablePlan) -> str:
    if not plan.runs:
        return ""
    from kdbench.planning.speed import Speeds  # imports torch

    try:
        speeds = Speeds(plan.runs[0].config, note=say)
        return f"{write_forecast(plan, speeds.of)}\n\nmachine: {speeds.machine}"
    except KdbenchError as error:
        return f"no estimate: {error}"
