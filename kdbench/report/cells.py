"""Data classes of a table: its options, its cells, and the table that renderers take."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdbench.records.metric import Metric
from kdbench.records.select import Condition
from kdbench.report.layout import CellKey
from kdbench.report.published import Choice
from kdbench.report.statistics import Comparison

BASELINES = {"method": "kd", "objective": "kd", "temperature": "constant"}  # by row axis


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a table.

    Attributes:
        metric: see ``find_metric``.
        rows, columns: see ``layout.AXES``.
        filters: conditions that its runs must meet.
        sort: "name", or "mean" for the best row first.
        baseline: the row to compare the others with; None uses ``BASELINES``.
        protocol: "paper" or "strict"; None includes both, with a note.
        planned: cell -> planned seeds; no others are shown. None shows all.
        name: of the planned table, if any.
    """

    metric: str = "top1_last"
    rows: str = "method"
    columns: str = "pair"
    filters: tuple[Condition, ...] = ()
    sort: str = "name"
    baseline: str | None = None
    protocol: str | None = None
    planned: Mapping[CellKey, set[int]] | None = None
    name: str | None = None

    @property
    def wanted(self) -> str:
        """The requested baseline."""
        return BASELINES.get(self.rows, "kd") if self.baseline is None else self.baseline


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of one row and column.

    Attributes:
        done: number of seeds with a finished run.
        failed: number of seeds with failed runs only.
        planned: number of planned seeds; None without a plan.
        values: seed -> the metric; a run may lack it, as with epochs to a level never reached.
        mean, std: of the values, std with n - 1; None below one and two values.
        best_mean: mean top-1 of the best epochs, picked on the test set; None if not recorded.
        published: the number of a paper, for runs at the published setting only.
        matching: our accuracy that the published number is compared with: "best" if it is of the
            best epoch, else "last"; None if none is published.
        difference: mean of the matching accuracy - published, percentage points; None if no run
            has that accuracy.
        comparison: with the baseline of the same column, adjusted for the rows of that column.
        is_best: the best mean of its column, after rounding as shown.
        is_winner: significantly better than the second best.
    """

    done: int
    failed: int
    planned: int | None
    values: dict[int, float]
    mean: float | None
    std: float | None
    best_mean: float | None
    published: Choice | None
    matching: str | None
    difference: float | None
    comparison: Comparison | None = None
    is_best: bool = False
    is_winner: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that a renderer needs.

    Attributes:
        title: what all runs have in common.
        metric: the metric shown.
        axes: the meaning of rows and columns, such as ("method", "pair").
        rows, columns: labels, in order; the student alone comes first.
        networks: column -> (teacher, student), for columns with one of each.
        cells: by (row, column); missing ones were neither planned nor run.
        baseline: the row that the others are compared with; None if it is missing or ambiguous.
        teacher: column -> top-1 of its teacher as measured here, percent.
        teacher_published: column -> published top-1 of its teacher.
        notes: sentences to show with the table.
    """

    title: str
    metric: Metric
    axes: tuple[str, str]
    rows: list[str]
    columns: list[str]
    networks: dict[str, tuple[str, str]]
    cells: dict[CellKey, Cell]
    baseline: str | None
    teacher: dict[str, float]
    teacher_published: dict[str, Choice]
    notes: list[str]
