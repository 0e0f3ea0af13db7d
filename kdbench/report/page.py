"""``report.html``: a single self-contained file, without scripts or network access.

``page.html`` is the template, ``page.css`` and ``chart.css`` the styles; colors and sizes adapt to
the reader's device. All user-provided text (methods, tags, errors, commands) is escaped by the
template and by ``svg``.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdbench.drawing.canvas import PageFigure, show
from kdbench.drawing.svg import STYLE, draw_swatch
from kdbench.files import write_atomic
from kdbench.records.collect import Collection, RunFolder, parse_time
from kdbench.records.identity import slug
from kdbench.records.record import FILE, METRICS, TIMINGS, RunRecord
from kdbench.report import figures, views
from kdbench.report.cells import Table
from kdbench.report.curves import CellRuns, group_runs
from kdbench.report.layout import lay_out
from kdbench.report.render import Grid, explain, layout_blocks
from kdbench.words import duration, list_some, plural

MAX_RUNS = 400  # beyond, runs are a table instead of a section each
_FILES = (FILE, METRICS, TIMINGS, "train.log", ".hydra/config.yaml")
_FOLDER = Path(__file__).parent
_DAY = 24 * 3600  # seconds


def write_page(path: Path, collection: Collection, table: Table) -> list[str]:
    """Writes the report of a comparison as one HTML file.

    Args:
        path: of the file; links to the runs are relative to its folder.
        collection: exactly the runs that the table was built from, and problems.
        table: of those runs.

    Returns:
        One sentence for each unusable file of metrics, whose run is in no figure.

    Raises:
        ResourceError: the file cannot be written.
    """
    groups, problems = group_runs(collection.runs, table)
    runs = list(_list_runs(path, collection, table))
    page = (
        _environment()
        .get_template("page.html")
        .render(
            table=table,
            facts=describe(collection),
            problems=collection.problems,
            without_curves=problems,
            failed=[run for run in runs if run.status != "done"],
            unfinished=[_link(path, folder) for folder in collection.unfinished],
            explanations=explain(table),
            overview=_overview(table),
            sections=_sections(table, groups),
            runs=runs,
            max_runs=MAX_RUNS,
            last=round(100 * figures.LAST),
            max_bands=figures.MAX_BANDS,
        )
    )
    # File names may contain bytes that are not valid text.
    write_atomic(path, page.encode(errors="replace"))
    return problems


def write_figures(folder: Path, collection: Collection, table: Table) -> list[Path]:
    """Writes the figures of the page as PDF, SVG and PNG; returns their paths.

    Raises:
        ResourceError: a file cannot be written.
    """
    groups, _ = group_runs(collection.runs, table)
    columns = {name: [g for g in groups if g.column == name] for name in table.columns}
    return figures.write_figures(folder, columns, table.baseline, _styles(table, groups))


@dataclass(frozen=True)
class ColumnDetails:
    """One column of the table, usually a pair, with its figures and texts."""

    number: int
    column: str
    block: Grid
    table: Table
    groups: Sequence[CellRuns]
    styles: figures.Styles

    @cached_property
    def baseline(self) -> CellRuns | None:
        """The row that the others are compared with."""
        return next((g for g in self.groups if g.row == self.table.baseline), None)

    @cached_property
    def strips(self) -> tuple[Markup, Mapping[str, views.Entry]] | None:
        """The table's values, one dot per seed; None if there are no values."""
        cells = {g.row: self.table.cells[g.row, self.column].values for g in self.groups}
        known = {row: values for row, values in cells.items() if values}
        write = self.table.metric.write
        return views.draw_values(known, self.styles, write) if known else None

    @cached_property
    def sources(self) -> list[str]:
        """The sources of the published numbers in this column."""
        found = {"teacher": self.table.teacher_published.get(self.column)}
        found |= {
            row: cell.published
            for (row, column), cell in self.table.cells.items()
            if column == self.column
        }
        return [
            f"{row}: {choice.value:.2f} %, {choice.row.paper}, {choice.row.table}; {choice.rule}"
            for row, choice in found.items()
            if choice is not None
        ]

    @cached_property
    def figures(self) -> Mapping[str, PageFigure]:
        """Figures by name; empty ones are left out."""
        prefix = f"{slug(self.column)}-"
        drawings = figures.draw_all(self.groups, self.baseline, self.styles)
        few = len(self.groups) <= figures.MAX_BANDS  # the bands fit into the common chart
        shown = [drawing for drawing in drawings if not (few and drawing.name == "learning-rows")]
        return {drawing.name: show(drawing, prefix, self.number) for drawing in shown}

    @cached_property
    def legend(self) -> list[tuple[Markup, str, str]]:
        """Swatch, row and last accuracy, highest first."""
        known = [group for group in self.groups if group.accuracy in group.curves]
        last = {group.row: float(group.mean(group.accuracy)[-1]) for group in known}
        rows = sorted(last, key=lambda row: -last[row])
        return [(draw_swatch(self.styles[row]), row, f"{last[row]:.1f} %") for row in rows]

    @cached_property
    def speed(self) -> list[str]:
        """Sentences on which rows learn faster than the baseline."""
        return views.judge_speed(self.groups, self.table.baseline)

    @cached_property
    def convergence(self) -> views.FactTable:
        """The numbers behind ``speed``."""
        return views.view_convergence(self.groups, self.table.baseline, self.styles)

    @cached_property
    def temperature_legend(self) -> list[tuple[Markup, str]]:
        """Swatches of the rows that have a temperature."""
        shown = [group.row for group in self.groups if any("temp" in name for name in group.curves)]
        return [(draw_swatch(self.styles[row]), row) for row in shown]

    @cached_property
    def distillation(self) -> views.FactTable:
        """Agreement with the teacher, and calibration."""
        return views.view_distillation(self.groups, self.styles)

    @cached_property
    def cost(self) -> views.FactTable:
        """Time and memory."""
        return views.view_cost(self.groups, self.styles)

    @cached_property
    def hardware(self) -> str:
        """The machines of the runs."""
        return views.describe_hardware([r.record for g in self.groups for r in g.runs.values()])


@dataclass(frozen=True)
class RunDetails:
    """One run, as shown in its section."""

    number: int
    label: str
    column: str
    record: RunRecord
    folder: tuple[str, str]
    repeat: str
    files: list[tuple[str, str]]

    @property
    def status(self) -> str:
        """Status: "done" or "failed"."""
        return self.record.status

    @property
    def result(self) -> str:
        """Last-epoch accuracy; empty if there is none."""
        return "" if self.record.top1_last is None else f"{self.record.top1_last:.2f} %"

    @property
    def spent(self) -> str:
        """Its share of the wall time of its cohort."""
        return duration(self.record.spent_seconds)

    @property
    def duration(self) -> str:
        """Time spent, time it would take alone, and dates."""
        alone = self.record.alone_seconds
        also = "" if alone is None else f" ({duration(alone)} alone)"
        return f"{self.spent}{also}, {_write_period([self.record])}"

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(self.record.command)

    @property
    def config(self) -> str:
        """The config as YAML."""
        return _write_yaml(self.record.config)

    @property
    def environment(self) -> str:
        """The environment as YAML."""
        return _write_yaml(self.record.environment)


def describe(collection: Collection) -> list[tuple[str, str]]:
    """Facts about the comparison for the header of the page: (name, value)."""
    records = [run.record for run in collection.distinct]
    git = [record.environment.get("git") or {} for record in records]
    commits = {str(g.get("commit"))[:10] + (" (changed)" if g.get("dirty") else "") for g in git}
    versions = [record.environment.get("versions") or {} for record in records]
    facts = [
        ("Runs", _count_runs(collection)),
        ("Data", _distinct(r.dataset for r in records)),
        ("Teachers", _distinct(_describe_teacher(r) for r in records if r.teacher)),
        ("Students", _distinct(r.student for r in records)),
        ("Seeds", _list_seeds({r.seed for r in records})),
        (
            "Budget",
            _distinct(f"{plural(r.epochs, 'epoch')}, protocol {r.protocol}" for r in records),
        ),
        ("Trained", _describe_time(records)),
        ("Machine", _distinct(f"{r.device}, {r.precision}" for r in records)),
        ("Versions", _distinct(f"{n} {v.get(n)}" for n in ("kdbench", "torch") for v in versions)),
        ("Revision", _distinct(commits)),
    ]
    return [(name, value) for name, value in facts if value]


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["minus"] = _minus
    found.globals["swatch"] = draw_swatch
    found.globals["style"] = lambda: Markup(STYLE.read_text() + (_FOLDER / "page.css").read_text())
    return found


def _minus(text: str) -> str:
    """Replaces hyphens before numbers with minus signs."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text)


def _overview(table: Table) -> Grid | None:
    return layout_blocks(table)[0] if len(table.columns) > 1 else None


def _sections(table: Table, groups: Sequence[CellRuns]) -> list[ColumnDetails]:
    styles = _styles(table, groups)
    blocks = layout_blocks(table)[-len(table.columns) :]
    return [
        ColumnDetails(i, column, block, table, [g for g in groups if g.column == column], styles)
        for i, (column, block) in enumerate(zip(table.columns, blocks, strict=True), 1)
    ]


def _styles(table: Table, groups: Sequence[CellRuns]) -> figures.Styles:
    alone = {group.row for group in groups if not group.has_teacher}
    return figures.choose_styles(table.rows, table.baseline, sorted(alone))


def _list_runs(path: Path, collection: Collection, table: Table) -> Iterator[RunDetails]:
    cells = lay_out([run.record for run in collection.runs], *table.axes)
    place = {id(record): key for key, records in cells.items() for record in records}
    with_files = len(collection.distinct) <= MAX_RUNS
    for number, run in enumerate(collection.distinct, 1):
        row, column = place[id(run.record)]
        files = list(_existing_files(path, run)) if with_files else []
        again = shlex.join(["kdbench-rerun", str(run.folder)])
        yield RunDetails(number, row, column, run.record, _link(path, run.folder), again, files)


def _existing_files(path: Path, run: RunFolder) -> Iterator[tuple[str, str]]:
    for name in _FILES:
        if (run.folder / name).exists():
            yield name, _link(path, run.folder / name)[1]


def _link(path: Path, target: Path) -> tuple[str, str]:
    """A path for display, and as a link relative to the page."""
    relative = os.path.relpath(target.absolute(), path.absolute().parent)
    return relative, quote(os.fsencode(relative))


def _write_yaml(content: Mapping[str, Any]) -> str:
    # The C dumper: there may be hundreds of configs.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(dict(content), Dumper=dumper, sort_keys=False, allow_unicode=True))


def _count_runs(collection: Collection) -> str:
    runs = collection.distinct
    done = sum(run.record.status == "done" for run in runs)
    parts = {
        "done": done,
        "failed": len(runs) - done,
        "unfinished": len(collection.unfinished),
    }
    return ", ".join(f"{count} {name}" for name, count in parts.items() if count)


def _describe_teacher(record: RunRecord) -> str:
    top1 = "" if record.teacher_top1 is None else f" ({record.teacher_top1:.2f} % on test)"
    return f"{record.teacher}{top1}"


def _describe_time(records: Sequence[RunRecord]) -> str:
    if not records:
        return ""
    spent = duration(sum(record.spent_seconds for record in records))
    alone = [record.alone_seconds for record in records if record.alone_seconds is not None]
    also = f" ({duration(sum(alone))} one by one)" if len(alone) == len(records) else ""
    return f"{_write_period(records)}, {spent} in all runs together{also}"


def _write_period(records: Sequence[RunRecord]) -> str:
    """The period from the first start to the last finish."""
    times = sorted(parse_time(time) for r in records for time in (r.started, r.finished))
    return f"{times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC"


def _list_seeds(seeds: set[int]) -> str:
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


def _distinct(values: Any, most: int = 6) -> str:
    return list_some(sorted(set(values)), most, "; ")
