"""A table as text, Markdown, LaTeX and CSV: in detail, or compact as papers print it."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

from kdbench.columns import align_columns, write_markdown_table
from kdbench.records.identity import slug
from kdbench.report.cells import Cell, Table
from kdbench.report.published import KINDS, Choice
from kdbench.report.statistics import ALPHA, FEW_SEEDS, MIN_SEEDS, Comparison, write_p
from kdbench.words import span

TEACHER, STUDENT = "teacher", "student"
_EPOCH = {"best": "best", "last": "last", "unknown": "?"}  # epoch of a published number
LINE = 100  # line width of prose in a terminal


@dataclass(frozen=True)
class Grid:
    """A grid of text cells.

    Attributes:
        title: one line above it.
        rows: the first ``heads`` rows are the header.
        strong: (row, column) of emphasized cells: the best of their column.
        marks: (row, column) -> "+" or "-" against the baseline, in parentheses for few seeds.
        heads: the number of header rows.
    """

    title: str
    rows: list[list[str]]
    strong: set[tuple[int, int]] = field(default_factory=set)
    marks: dict[tuple[int, int], str] = field(default_factory=dict)
    heads: int = 1


def layout_blocks(table: Table, compact: bool = False) -> list[Grid]:
    """The grids of a table: an overview if it has several columns, then each column in detail.

    Args:
        table: to show.
        compact: a single grid of means instead, as in papers.
    """
    if compact:
        return [_compact(table)]
    details = [_detail(table, column) for column in table.columns]
    return [_overview(table), *details] if len(details) > 1 else details


def explain(table: Table, compact: bool = False) -> list[str]:
    """Explanations of a table's columns, one sentence each."""
    cells = table.cells.values()
    sentences = [_explain_spread(table, compact)]
    if any(cell.is_best for cell in cells):
        sentences.append("The best mean of each column is marked.")
    if _has_best(table) and not compact:
        sentences.append("* Best epoch: picked on the test set, so optimistic; never the result.")
    if (any(cell.published for cell in cells) or table.teacher_published) and not compact:
        kinds = ", then ".join(KINDS.values())
        sentences.append(
            f"Published: one source, preferred in this order: {kinds}; [low to high] if sources "
            f"disagree; (best) or (last) epoch, (?) if unknown. The difference is to our accuracy "
            f"of the same epoch, given in parentheses; for (?) that of the last epoch."
        )
    if any(cell.comparison for cell in cells):
        sentences += _explain_verdicts(table, compact)
    return sentences


def _explain_spread(table: Table, compact: bool) -> str:
    if not compact:
        return "Mean ± standard deviation over seeds; the teacher is measured here."
    spreads = [cell.std for cell in table.cells.values() if cell.std is not None]
    seeds = sorted({cell.done for cell in table.cells.values() if cell.values})
    many = span(seeds[0], seeds[-1]) if seeds else "no"
    of = f"Mean over {many} {'seed' if many == '1' else 'seeds'}"
    if not spreads:
        return f"{of}; the teacher is measured here."
    deviation = span(_number(table, min(spreads)), _number(table, max(spreads)))
    return f"{of}, standard deviation {deviation}; the teacher is measured here."


def _explain_verdicts(table: Table, compact: bool) -> Iterator[str]:
    """Explains how the rows were compared with the baseline."""
    test = (
        f"paired t test over seeds, Holm-adjusted for all rows of a column, p < {ALPHA}; it "
        f"assumes normally distributed differences"
    )
    if len(table.columns) > 1 or compact:
        yield f"+ and -: better and worse than {table.baseline}: {test}. In parentheses: few seeds."
    if compact:
        return
    yield (
        f"Against {table.baseline}: {test}. No verdict below {MIN_SEEDS} seeds; few seeds: fewer "
        f"than {FEW_SEEDS}. Mean difference with its simultaneous 95 % confidence interval, which "
        f"excludes 0 exactly if the verdict is better or worse."
    )
    yield (
        "Signed-rank p: exact, not adjusted; with n seeds at least 2/2^n (0.063 for 5). If the "
        "signed-rank test can reach the level but disagrees with the t test, the verdict notes it."
    )
    comparisons = [cell.comparison for cell in table.cells.values()]
    if any(c is not None and c.verdict == "no spread" for c in comparisons):
        yield "No spread: the difference is the same for every seed, so a t test is undefined."
    winners = [f"{row} ({column})" for (row, column), c in table.cells.items() if c.is_winner]
    if winners:
        yield (
            f"Significantly better than the second best of its column, p < {ALPHA} (Holm-adjusted "
            f"for the selection): {', '.join(winners)}."
        )


def write_text(table: Table, compact: bool = False) -> str:
    """The table as plain text for a terminal."""
    parts = [
        f"{_printable(block.title)}\n"
        f"{align_columns(_marked(block, '{} (best)', '{} {}', _printable), block.heads)}"
        for block in layout_blocks(table, compact)
    ]
    lines = [*explain(table, compact), *(f"Note: {note}" for note in table.notes)]
    folded = [fill(_printable(line), LINE, subsequent_indent="  ") for line in lines]
    return "\n\n".join([_printable(table.title), *parts, "\n".join(folded)]) + "\n"


def write_markdown(table: Table, compact: bool = False) -> str:
    """The table as GitHub Markdown."""
    parts = [f"## {_escape_markdown(table.title)}"]
    for block in layout_blocks(table, compact):
        grid = write_markdown_table(_marked(block, "**{}**", "{} {}", _escape_markdown))
        parts.append(f"### {_escape_markdown(block.title)}\n\n{grid}")
    lines = [*explain(table, compact), *table.notes]
    parts.append("\n".join(f"- {_escape_markdown(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def write_latex(table: Table, compact: bool = False) -> str:
    """The table as LaTeX, one ``table`` environment per block; needs only booktabs."""
    parts = ["% \\usepackage{booktabs}"]
    for block in layout_blocks(table, compact):
        lines = [
            " & ".join(row) + r" \\"
            for row in _marked(block, r"\textbf{{{}}}", "{}$^{{{}}}$", _escape_latex)
        ]
        title = f"{table.title}: {block.title}"
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(title)}}}",
            rf"\label{{tab:{slug(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(block.rows[0]) - 1)}}}",
            r"\toprule",
            *lines[: block.heads],
            r"\midrule",
            *lines[block.heads :],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    lines = [*explain(table, compact), *table.notes]
    parts += [rf"{{\footnotesize {_escape_latex(line)}\par}}" for line in lines]
    return "\n".join(parts) + "\n"


def write_csv(table: Table, compact: bool = False) -> str:
    """The table as CSV: one line per cell with all its fields; compact, one line per row of means.

    Numbers are not rounded.
    """
    if compact:
        lines = [_means(table, row) for row in table.rows]
        teacher: dict[str, object] = {name: None for line in lines[:1] for name in line}
        teacher |= {table.axes[0]: TEACHER, **table.teacher}
        return _write_lines([teacher, *lines] if table.teacher else lines)
    lines = [_record(table, row, column) for row in table.rows for column in table.columns]
    return _write_lines([*_teacher_records(table), *(line for line in lines if line)])


def _write_lines(lines: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [_plain(n) for n in dict.fromkeys(n for li in lines for n in li)])
    writer.writeheader()
    for line in lines:
        writer.writerow({_plain(name): _plain(value) for name, value in line.items()})
    return text.getvalue()


def _means(table: Table, row: str) -> dict[str, object]:
    found: dict[str, object] = {table.axes[0]: row}
    for column in table.columns:
        cell = table.cells.get((row, column))
        found[column] = cell and cell.mean
        found[f"{column}: std"] = cell and cell.std
        found[f"{column}: seeds"] = cell and len(cell.values)
        found[f"{column}: verdict"] = cell and cell.comparison and cell.comparison.verdict
    return found


def _overview(table: Table) -> Grid:
    return _grid(
        table,
        f"{table.metric.title} (seeds)",
        [[table.axes[0], *table.columns]],
        lambda cell: f"{_spread(table, cell)} ({_seeds(cell)})",
    )


def _compact(table: Table) -> Grid:
    known = [table.networks.get(column) for column in table.columns]
    if table.axes[1] != "pair" or not all(known):
        heads = [[table.axes[0], *table.columns]]
    else:
        names = [pair for pair in known if pair is not None]
        heads = [[TEACHER, *(t for t, _ in names)], [STUDENT, *(s for _, s in names)]]
        rest = [_without_pair(column) for column in table.columns]
        if len(set(rest)) > 1:
            heads.insert(0, ["", *rest])
    return _grid(
        table,
        table.metric.title,
        heads,
        lambda cell: "-" if cell.mean is None else _number(table, cell.mean),
    )


def _without_pair(label: str) -> str:
    """A column's label without teacher and student, which have header rows of their own."""
    dataset, _, *rest = [*label.split(", "), ""]
    return ", ".join(part for part in (dataset, *rest) if part)


def _grid(table: Table, title: str, heads: list[list[str]], write: Callable[[Cell], str]) -> Grid:
    """A grid of all cells of a table, one text each."""
    rows, strong, marks = [*heads], set(), {}
    if table.teacher:
        name = TEACHER if len(heads) == 1 else f"{TEACHER}, top-1"
        rows.append([name, *(_number(table, table.teacher.get(c)) for c in table.columns)])
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in table.columns]
        for place, cell in enumerate(cells, 1):
            if cell is not None and cell.is_best:
                strong.add((len(rows), place))
            if cell is not None and (mark := _mark(cell.comparison)):
                marks[len(rows), place] = mark
        rows.append([row, *("" if cell is None else write(cell) for cell in cells)])
    return Grid(title, rows, strong, marks, len(heads))


def _mark(comparison: Comparison | None) -> str:
    """Significance against the baseline as a single sign."""
    if comparison is None or not comparison.is_distinguishable:
        return ""
    sign = "+" if comparison.verdict == "better" else "-"
    return f"({sign})" if comparison.has_few_seeds else sign


def _detail(table: Table, column: str) -> Grid:
    shown = [(row, table.cells[row, column]) for row in table.rows if (row, column) in table.cells]
    head = [table.axes[0], "mean ± std", "seeds", "best epoch*", "published", "difference"]
    head += [f"against {table.baseline}", "verdict", "signed-rank p"]
    rows = [_teacher_row(table, column)] if column in table.teacher else []
    strong = set()
    for row, cell in shown:
        if cell.is_best:
            strong.add((len(rows) + 1, 1))
        rows.append([row, *_cell_texts(table, cell)])
    grid = _without_empty_columns([head, *rows])
    return Grid(f"{column}: {table.metric.title}", grid, strong)


def _teacher_row(table: Table, column: str) -> list[str]:
    top1, published = table.teacher[column], table.teacher_published.get(column)
    difference = _number(table, top1 - published.value, sign=True) if published else ""
    found = [_number(table, top1), "", "", _published(table, published), difference, "", "", ""]
    return [TEACHER, *found]


def _cell_texts(table: Table, cell: Cell) -> list[str]:
    return [
        _spread(table, cell),
        _seeds(cell),
        _number(table, cell.best_mean) if _has_best(table) else "",
        _published(table, cell.published),
        _to_published(table, cell),
        _difference(table, cell.comparison),
        cell.comparison.statement if cell.comparison else "",
        _rank_p(cell.comparison),
    ]


def _has_best(table: Table) -> bool:
    picked = any(cell.best_mean is not None for cell in table.cells.values())
    return picked and table.metric.name == "top1_last"


def _number(table: Table, value: float | None, sign: bool = False) -> str:
    return "" if value is None else table.metric.write(value, sign)


def _spread(table: Table, cell: Cell) -> str:
    if cell.mean is None:
        return "-"
    spread = f" ± {_number(table, cell.std)}" if cell.std is not None else ""
    return f"{_number(table, cell.mean)}{spread}"


def _seeds(cell: Cell) -> str:
    of = "" if cell.planned is None else f" of {cell.planned}"
    failed = f", {cell.failed} failed" if cell.failed else ""
    return f"{cell.done}{of}{failed}"


def _published(table: Table, choice: Choice | None) -> str:
    if choice is None:
        return ""
    disputed = f" [{choice.low:.2f} to {choice.high:.2f}]" if choice.is_disputed else ""
    return f"{_number(table, choice.value)} ({_EPOCH[choice.selection]}){disputed}"


def _to_published(table: Table, cell: Cell) -> str:
    text = _number(table, cell.difference, sign=True)
    return f"{text} ({cell.matching})" if text else ""


def _difference(table: Table, comparison: Comparison | None) -> str:
    if comparison is None or comparison.difference is None:
        return ""
    text = _number(table, comparison.difference, sign=True)
    if comparison.interval is not None:
        low, high = (_number(table, end, sign=True) for end in comparison.interval)
        text += f" [{low}, {high}]"
    return text


def _rank_p(comparison: Comparison | None) -> str:
    return "" if comparison is None or comparison.rank_p is None else write_p(comparison.rank_p)


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    head, *body = rows
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in rows]


def _marked(
    block: Grid, strong: str, mark: str, escape: Callable[[str], str] = str
) -> list[list[str]]:
    """The escaped texts of a block, with the best emphasized and verdicts marked by a sign."""

    def write(text: str, place: tuple[int, int]) -> str:
        found = strong.format(escape(text)) if place in block.strong else escape(text)
        return mark.format(found, block.marks[place]) if place in block.marks else found

    return [[write(text, (i, j)) for j, text in enumerate(row)] for i, row in enumerate(block.rows)]


def _printable(text: str) -> str:
    """Replaces control characters, which user-chosen names may contain."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _escape_markdown(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "[": "{[}",  # at the start of a line, both would be parsed as part of the preceding \\\\
        "*": "{*}",
        "\n": " ",
        **{character: f"\\{character}" for character in "{}$&#_%"},
    }
)


def _escape_latex(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(_LATEX))


def _teacher_records(table: Table) -> Iterator[dict[str, object]]:
    for column, top1 in table.teacher.items():
        choice = table.teacher_published.get(column)
        found = {"row": TEACHER, "column": column, "metric": "top1", "unit": "%", "mean": top1}
        yield {**found, **_published_record(choice, top1 - choice.value if choice else None)}


def _record(table: Table, row: str, column: str) -> dict[str, object]:
    cell = table.cells.get((row, column))
    if cell is None:
        return {}
    return {
        "row": row,
        "column": column,
        "metric": table.metric.name,
        "unit": table.metric.unit,
        "mean": cell.mean,
        "std": cell.std,
        "planned": cell.planned,
        "done": cell.done,
        "failed": cell.failed,
        "best_epoch_mean_picked_on_test": cell.best_mean,
        **_published_record(cell.published, cell.difference, cell.matching),
        **_comparison_record(table.baseline, cell.comparison),
        "is_best": cell.is_best,
        "is_winner": cell.is_winner,
        "seeds": " ".join(map(str, cell.values)),
        "values": " ".join(map(repr, cell.values.values())),
    }


def _published_record(
    choice: Choice | None, difference: float | None, matching: str | None = None
) -> dict[str, object]:
    return {
        "published": choice and choice.value,
        "published_epoch": choice and choice.selection,
        "published_low": choice and choice.low,
        "published_high": choice and choice.high,
        "published_rule": choice and choice.rule,
        "published_arxiv": choice and choice.row.arxiv,
        "published_source": choice and choice.row.source,
        "difference": difference,
        "difference_of_our_epoch": matching,
    }


def _comparison_record(baseline: str | None, comparison: Comparison | None) -> dict[str, object]:
    low, high = (comparison and comparison.interval) or (None, None)
    return {
        "baseline": baseline if comparison else None,
        "pairs": comparison and comparison.n,
        "against_baseline": comparison and comparison.difference,
        "interval_low": low,
        "interval_high": high,
        "p": comparison and comparison.p,
        "adjusted_p": comparison and comparison.adjusted_p,
        "signed_rank_p": comparison and comparison.rank_p,
        "adjusted_signed_rank_p": comparison and comparison.adjusted_rank_p,
        "signed_rank_agrees": comparison and comparison.rank_test_agrees,
        "effect": comparison and comparison.effect,
        "verdict": comparison and comparison.verdict,
        "few_seeds": comparison and comparison.has_few_seeds,
    }


def _plain(value: Any) -> Any:
    # Spreadsheets would treat such text as a formula.
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value
