"""A table as text, Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import fill

from kdbench.results.published import KINDS, Choice
from kdbench.results.statistics import ALPHA, MIN_SEEDS, Comparison
from kdbench.results.table import Cell, Table

TEACHER = "teacher"
LINE = 100  # characters of a line of prose in a terminal


@dataclass(frozen=True)
class Block:
    """A grid of texts.

    Attributes:
        title: one line above it.
        rows: the first one names the columns.
        strong: (row, column) of what stands out.
    """

    title: str
    rows: list[list[str]]
    strong: set[tuple[int, int]] = field(default_factory=set)


def layout_blocks(table: Table) -> list[Block]:
    """All of a table: where it has several columns an overview, then each column in detail."""
    details = [_detail(table, column) for column in table.columns]
    return [_overview(table), *details] if len(details) > 1 else details


def explain(table: Table) -> list[str]:
    """What the reader of a table must know about its columns, one sentence each."""
    cells = table.cells.values()
    sentences = ["Mean ± standard deviation over seeds; teacher as measured here."]
    if _has_best(table):
        sentences.append("* Best epoch: picked on the test set, optimistic, never the result.")
    if any(cell.published for cell in cells) or table.teacher_published:
        kinds = ", then ".join(KINDS.values())
        sentences.append(
            f"Published: one source of possibly several, by this order: {kinds}. Brackets have the "
            f"range where sources disagree. Most do not say whether they print the last epoch or "
            f"the best."
        )
    if any(cell.comparison for cell in cells):
        sentences.append(
            f"Against {table.baseline}: paired by seed, mean difference with its 95 % interval "
            f"(t, each row by itself); exact signed-rank test, p adjusted for all rows of a column "
            f"(Holm). With fewer than {MIN_SEEDS} seeds, more for many rows, nothing can reach "
            f"p < {ALPHA}: too few."
        )
    if any(cell.is_winner for cell in cells):
        sentences.append(f"+ Better than the second best of its column, p < {ALPHA} (Holm).")
    return sentences


def write_text(table: Table) -> str:
    """For a terminal."""
    parts = [
        f"{_printable(block.title)}\n{align(_marked(block, '{} +', _printable))}"
        for block in layout_blocks(table)
    ]
    lines = [*explain(table), *(f"Note: {note}" for note in table.notes)]
    folded = [fill(_printable(line), LINE, subsequent_indent="  ") for line in lines]
    return "\n\n".join([_printable(table.title), *parts, "\n".join(folded)]) + "\n"


def write_markdown(table: Table) -> str:
    """GitHub's flavour."""
    parts = [f"## {_escape_markdown(table.title)}"]
    for block in layout_blocks(table):
        head, *body = _marked(block, "**{}**", _escape_markdown)
        rule = ["---", *("--:" for _ in head[1:])]
        grid = "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
        parts.append(f"### {_escape_markdown(block.title)}\n\n{grid}")
    lines = [*explain(table), *table.notes]
    parts.append("\n".join(f"- {_escape_markdown(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def write_latex(table: Table) -> str:
    """One ``table`` environment for each block; needs booktabs and nothing else."""
    parts = ["% \\usepackage{booktabs}"]
    for block in layout_blocks(table):
        head, *body = [
            " & ".join(row) + r" \\" for row in _marked(block, r"\textbf{{{}}}", _escape_latex)
        ]
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(f'{table.title}: {block.title}')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(block.rows[0]) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    lines = [*explain(table), *table.notes]
    parts += [rf"{{\footnotesize {_escape_latex(line)}\par}}" for line in lines]
    return "\n".join(parts) + "\n"


def write_csv(table: Table) -> str:
    """One line a cell, with everything that is known of it, numbers unrounded."""
    lines = [_record(table, row, column) for row in table.rows for column in table.columns]
    lines = [*_teacher_records(table), *(line for line in lines if line)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(n for line in lines for n in line)))
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _plain(value) for name, value in line.items()})
    return text.getvalue()


def _overview(table: Table) -> Block:
    rows = [[table.axes[0], *table.columns]]
    if table.teacher:
        rows.append([TEACHER, *(_number(table, table.teacher.get(c)) for c in table.columns)])
    strong = set()
    for row in table.rows:
        for place, column in enumerate(table.columns, 1):
            cell = table.cells.get((row, column))
            if cell is not None and cell.is_winner:
                strong.add((len(rows), place))
        cells = [table.cells.get((row, column)) for column in table.columns]
        rows.append([row, *(f"{_spread(table, c)} ({_seeds(c)})" if c else "" for c in cells)])
    return Block(f"{table.metric.title} (seeds)", rows, strong)


def _detail(table: Table, column: str) -> Block:
    shown = [(row, table.cells[row, column]) for row in table.rows if (row, column) in table.cells]
    head = [table.axes[0], "mean ± std", "seeds", "best epoch*", "published", "difference"]
    head += [f"against {table.baseline}", "verdict"]
    rows = [_teacher_row(table, column)] if column in table.teacher else []
    strong = set()
    for row, cell in shown:
        if cell.is_winner:
            strong.add((len(rows) + 1, 1))
        rows.append([row, *_cell_texts(table, cell)])
    grid = _without_empty_columns([head, *rows])
    return Block(f"{column}: {table.metric.title}", grid, strong)


def _teacher_row(table: Table, column: str) -> list[str]:
    top1, published = table.teacher[column], table.teacher_published.get(column)
    difference = _number(table, top1 - published.value, sign=True) if published else ""
    found = [_number(table, top1), "", "", _published(table, published), difference, "", ""]
    return [TEACHER, *found]


def _cell_texts(table: Table, cell: Cell) -> list[str]:
    return [
        _spread(table, cell),
        _seeds(cell),
        _number(table, cell.best_mean) if _has_best(table) else "",
        _published(table, cell.published),
        _number(table, cell.difference, sign=True),
        _difference(table, cell.comparison),
        _verdict(cell.comparison),
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
    return f"{_number(table, choice.value)}{disputed}"


def _difference(table: Table, comparison: Comparison | None) -> str:
    if comparison is None or comparison.difference is None:
        return ""
    text = _number(table, comparison.difference, sign=True)
    if comparison.interval is not None:
        low, high = (_number(table, end, sign=True) for end in comparison.interval)
        text += f" [{low}, {high}]"
    return text


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    p = f" (p={comparison.adjusted_p:.2g})" if comparison.can_tell else ""
    return f"{comparison.verdict}{p}"


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    head, *body = rows
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in rows]


def _marked(block: Block, mark: str, escape: Callable[[str], str] = str) -> list[list[str]]:
    return [
        [
            mark.format(escape(text)) if (i, j) in block.strong else escape(text)
            for j, text in enumerate(row)
        ]
        for i, row in enumerate(block.rows)
    ]


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width for a terminal; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _printable(text: str) -> str:
    """Names are of people; one with control characters would rule the terminal."""
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
        "[": "{[}",  # at the beginning of a line, both would belong to the double backslash above
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
        **_published_record(cell.published, cell.difference),
        **_comparison_record(table.baseline, cell.comparison),
        "is_winner": cell.is_winner,
        "seeds": " ".join(map(str, cell.values)),
        "values": " ".join(map(repr, cell.values.values())),
    }


def _published_record(choice: Choice | None, difference: float | None) -> dict[str, object]:
    return {
        "published": choice and choice.value,
        "published_low": choice and choice.low,
        "published_high": choice and choice.high,
        "published_rule": choice and choice.rule,
        "published_arxiv": choice and choice.row.arxiv,
        "published_source": choice and choice.row.source,
        "difference": difference,
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
        "effect": comparison and comparison.effect,
        "verdict": comparison and comparison.verdict,
    }


def _plain(value: object) -> object:
    # A text that begins so would be a formula in a spreadsheet.
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value
