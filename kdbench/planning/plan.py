"""The planned runs of a table of ``conf/table``: their cells and states."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from kdbench.config.compose import Loader, compose, hydra_context
from kdbench.config.identity import (
    needs_teacher,
    resolve_config,
    run_key,
    stable_config,
    strategy_name,
)
from kdbench.config.overrides import check_overrides
from kdbench.config.syntax import quote_recipes
from kdbench.errors import CheckpointError, KdbenchError
from kdbench.records.record import FILE, find_finished
from kdbench.report.layout import CellKey, method_label, pair_label

# States of a run; UNKNOWN if files that its key depends on are missing.
DONE, FAILED, BEGUN, MISSING, UNKNOWN = "done", "failed", "begun", "missing", "unknown"

# Sections that determine the column of a cell; all others determine its row.
_COLUMN_PARTS = ("dataset", "pair", "teacher", "student")
_BOTH_PARTS = ("table", "debug")


@dataclass(frozen=True)
class PlannedRun:
    """A planned run of a table.

    Attributes:
        cell: row and column of its result.
        seed: of the run.
        config: resolved.
        identity: equal for cells that share one run, such as a student without a teacher in the
            columns of two teachers.
        status: DONE, FAILED, BEGUN, MISSING or UNKNOWN.
    """

    cell: CellKey
    seed: int
    config: dict[str, Any]
    identity: str
    status: str


@dataclass(frozen=True)
class TablePlan:
    """All runs of a table.

    Attributes:
        table: its name.
        runs: in the order of the sweep.
        problems: missing files, without which the states of runs are unknown.
    """

    table: str
    runs: list[PlannedRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def distinct(self) -> list[PlannedRun]:
        """The runs without duplicates: the first of each identity."""
        first: dict[str, PlannedRun] = {}
        for run in self.runs:
            first.setdefault(run.identity, run)
        return list(first.values())

    def cells(self) -> dict[CellKey, list[PlannedRun]]:
        """The runs of each cell."""
        found: dict[CellKey, list[PlannedRun]] = defaultdict(list)
        for run in self.runs:
            found[run.cell].append(run)
        return dict(found)


def plan_table(table: str, overrides: Sequence[str] = ()) -> TablePlan:
    """Composes every run of a table as ``kdbench-train -m table=TABLE OVERRIDES`` would.

    Args:
        table: a name in ``conf/table``.
        overrides: as on the command line; they take precedence over the table.

    Raises:
        ConfigError: the table or an override does not exist.
    """
    check_overrides([f"table={table}", *overrides], values=False)
    plan = TablePlan(table)
    by_identity: dict[str, PlannedRun] = {}
    with hydra_context() as loader:
        for cfg in _compose_runs(loader, table, overrides):
            run = _plan_run(cfg, plan.problems)
            first = by_identity.setdefault(run.identity, run)
            plan.runs.append(replace(run, status=first.status))
    return plan


def planned_cells(table: str, overrides: Sequence[str] = ()) -> dict[CellKey, set[int]]:
    """The seeds of every cell of a table, without composing every cell.

    Args:
        table: a name in ``conf/table``.
        overrides: as on the command line.

    Raises:
        ConfigError: the table or an override does not exist.
    """
    check_overrides([f"table={table}", *overrides], values=False)
    found: dict[CellKey, set[int]] = defaultdict(set)
    with hydra_context() as loader:

        @cache
        def compose_part(part: tuple[str, ...]) -> DictConfig:
            return compose(loader, part)

        for job in _list_jobs(loader, table, overrides):
            rest, seed = _take_seed(job)
            row = compose_part(tuple(o for o in rest if _part(o) not in _COLUMN_PARTS))
            column = compose_part(tuple(o for o in rest if _part(o) in _COLUMN_PARTS + _BOTH_PARTS))
            networks = column
            if _labels(row)[1] != _labels(compose_part(_both(rest)))[1]:  # a chain
                networks = compose_part(rest)
            cell = (_labels(row)[0], _labels(networks)[1])
            found[cell].add(row.seed if seed is None else seed)
    return dict(found)


def find_folders(table: str, overrides: Sequence[str] = ()) -> tuple[Path, Path]:
    """The folder of a table's runs, and ``paths.outputs``.

    Args:
        table: a name in ``conf/table``.
        overrides: as on the command line.
    """
    with hydra_context() as loader:
        cfg = compose(loader, _list_jobs(loader, table, overrides)[0], with_hydra=True)
    return Path(cfg.hydra.sweep.dir), Path(cfg.paths.outputs)


def _list_jobs(loader: Loader, table: str, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper expands the table."""
    own = compose(loader, [f"table={table}"], with_hydra=True)
    params = [f"{key}={value}" for key, value in (own.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides(quote_recipes([*params, f"table={table}", *overrides]))
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def _compose_runs(loader: Loader, table: str, overrides: Sequence[str]) -> Iterator[DictConfig]:
    """One config per job, the same object for jobs that differ only in the seed."""
    # Composing takes 0.1 s, and nothing in conf/ depends on the seed.
    composed: dict[tuple[str, ...], DictConfig] = {}
    for job in _list_jobs(loader, table, overrides):
        rest, seed = _take_seed(job)
        if rest not in composed:
            composed[rest] = compose(loader, rest, with_hydra=True)
        cfg = composed[rest]
        if seed is not None:
            cfg.seed = seed
        yield cfg


def _take_seed(job: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    seeds = [override for override in job if override.startswith("seed=")]
    rest = tuple(override for override in job if override not in seeds)
    return rest, int(seeds[0].removeprefix("seed=")) if seeds else None


def _part(override: str) -> str:
    """The section of the config that an override touches."""
    return override.lstrip("+~").split("=")[0].split(".")[0].split("@")[0]


def _both(job: Sequence[str]) -> tuple[str, ...]:
    """The overrides that affect both row and column of a job."""
    return tuple(override for override in job if _part(override) in _BOTH_PARTS)


def _labels(cfg: DictConfig) -> CellKey:
    row = method_label(cfg.method, strategy_name(cfg))
    return row, pair_label(cfg.dataset.name, cfg.pair)


def _plan_run(cfg: DictConfig, problems: list[str]) -> PlannedRun:
    config = resolve_config(cfg)
    teacher = config["teacher"] if needs_teacher(config) else None
    try:
        key = run_key(config)
        identity, status = key, _status(Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir), key)
    except KdbenchError as error:
        if str(error) not in problems:
            problems.append(str(error))
        identity, status = json.dumps([stable_config(cfg), teacher]), UNKNOWN
    return PlannedRun(_labels(cfg), cfg.seed, config, identity, status)


def _status(folder: Path, key: str) -> str:
    with suppress(CheckpointError):  # damaged weights; training reports what to do
        if find_finished(folder, key) is not None:
            return DONE
    if (folder / FILE).exists():
        return FAILED
    return BEGUN if (folder / ".hydra").exists() else MISSING
