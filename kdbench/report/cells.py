"""What a table is made of: its options, its cells, and the whole that a renderer needs."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdbench.records.metric import Metric
from kdbench.records.select import Condition
from kdbench.report.layout import CellKey
from kdbench.report.published import Choice
from kdbench.report.statistics import Comparison

BASELINES = {"method": "kd", "objective": "kd", "temperature": "constant"}  # by what the rows are


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a table shows, and how.

    Attributes:
        metric: see ``find_metric``.
        rows, columns: see ``layout.AXES``.
        filters: conditions that its runs meet.
        sort: "name", or "mean": the best row first.
        baseline: the row that the others are compared with; None takes that of ``BASELINES``.
        protocol: "paper" or "strict"; None takes all, and says so.
        planned: seeds that each cell should have; no others are shown. None shows all there are.
        name: of the planned table; None for any other.
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
        """The row that the others are to be compared with."""
        return BASELINES.get(self.rows, "kd") if self.baseline is None else self.baseline


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of one row and column.

    Attributes:
        done: seeds whose run has ended well.
        failed: seeds that have only failed runs.
        planned: seeds that were planned; None where nothing was.
        values: seed -> the metric. A run that never got there has none (epochs to a level).
        mean, std: of the values, std with n - 1; None below one and two of them.
        best_mean: of the best epochs' top-1, picked on the test set; None where nobody looked.
        published: the number of a paper, for runs at the published setting only.
        matching: which accuracy of ours the published number is set against: "best" where it is of
            the best epoch, else "last"; None where none is published.
        difference: mean of the matching accuracy - published, percentage points; None where no run
            has that accuracy.
        comparison: with the baseline of the same column, adjusted for the rows of that column.
        is_best: the best mean of its column, as far as its digits are shown.
        is_winner: better than the second best by more than chance.
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
        metric: what is shown.
        axes: what rows and columns are, such as ("method", "pair").
        rows, columns: labels, in order; the student alone comes first.
        networks: column -> (teacher, student), for columns that have one of each.
        cells: by (row, column); what is not there was neither planned nor run.
        baseline: the row that the others are compared with; None where no single row is it.
        teacher: column -> top-1 of its teacher as measured here, percent.
        teacher_published: column -> what was published of it.
        notes: sentences that a reader must see.
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
