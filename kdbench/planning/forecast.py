"""The forecast of a table: what is done, what would be trained, and its cost on this machine.

Hours are for one process on this machine, extrapolated from single steps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from kdbench.columns import align_columns
from kdbench.config.identity import teacher_job
from kdbench.config.stage import name_teacher
from kdbench.errors import KdbenchError
from kdbench.planning.cost import Cost, PlainConfig, SpeedOf, find_stages, price
from kdbench.planning.plan import DONE, UNKNOWN, PlannedRun, TablePlan
from kdbench.records.record import find_finished
from kdbench.words import plural, three_digits

CELLS = ("row", "column", "runs", "state", "10^15 multiply-adds", "hours alone", "hours together")
TOTALS = ("", "runs", "10^15 multiply-adds", "hours alone", "hours together")
TEACHERS = ("teacher", "state", "hours")
LEGEND = (
    "alone: every run evaluates its teacher itself; together: runs with the same batches share "
    "the teacher's outputs, as in a sweep"
)


def write_forecast(plan: TablePlan, speed_of: SpeedOf) -> str:
    """The cells of a table with their states and costs, for the terminal."""
    runs = plan.distinct()
    left = [run for run in runs if run.status != DONE]
    costs = dict(zip((run.identity for run in runs), _price(runs, speed_of), strict=True))
    same = len(plan.runs) - len(runs)
    parts = [
        f"{plan.table}: {plural(len(plan.runs), 'run')}, of which {plural(same, 'duplicate')}",
        align_columns([CELLS, *_cell_lines(plan, costs)]),
        align_columns([TOTALS, _total("all", runs, speed_of), _total("not done", left, speed_of)]),
        _teachers([run.config for run in left], speed_of),
        LEGEND,
        *(f"states unknown: {problem}" for problem in plan.problems),
    ]
    return "\n\n".join(filter(None, parts))


def _price(runs: Sequence[PlannedRun], speed_of: SpeedOf) -> list[Cost]:
    return price([run.config for run in runs], speed_of)


def _cell_lines(plan: TablePlan, costs: Mapping[str, Cost]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = []
    counted: set[str] = set()
    for (row, column), runs in plan.cells().items():
        states = Counter(run.status for run in runs)
        state = ", ".join(f"{count} {name}" for name, count in states.items())
        here = {run.identity for run in runs} - counted
        counted |= here
        cost = _sum([costs[name] for name in here]) if here else ("", "", "")
        shown = state if here else f"{state}, counted above"
        lines.append((row, column, str(len(runs)), shown, *cost))
    return lines


def _total(name: str, runs: Sequence[PlannedRun], speed_of: SpeedOf) -> Sequence[str]:
    return name, str(len(runs)), *_sum(_price(runs, speed_of))


def _sum(costs: Sequence[Cost]) -> tuple[str, str, str]:
    alone, together = sum(cost.alone for cost in costs), sum(cost.together for cost in costs)
    return (
        three_digits(sum(cost.macs for cost in costs) / 1e15),
        three_digits(alone),
        three_digits(together),
    )


def _teachers(configs: Sequence[PlainConfig], speed_of: SpeedOf) -> str:
    """One line per teacher that is trained here."""
    lines = [TEACHERS]
    for training, config in find_stages(configs):
        hours = price([training], speed_of)[0].alone
        where = f"{training['dataset']['name']}, batches of {training['dataset']['batch_size']}"
        name = f"{name_teacher(config['teacher'])} ({where})"
        lines.append((name, _teacher_state(config), three_digits(hours)))
    return align_columns(lines) if len(lines) > 1 else ""


def _teacher_state(config: PlainConfig) -> str:
    try:
        _, folder, key = teacher_job(config)
        return "trained" if find_finished(folder, key) else "to be trained first"
    except KdbenchError:
        return UNKNOWN
