"""Columns of text: numbers to the right, everything else as it is."""

from kdbench.columns import align_columns, write_markdown_table

ROWS = [
    ["method", "mean ± std", "seeds", "p"],
    ["kd", "96.33 ± 0.06", "3", "<0.0001"],
    ["kd, a_b", "-", "10", ""],
]


def test_numbers_stand_to_the_right():
    assert align_columns(ROWS).splitlines() == [
        "method    mean ± std      seeds        p",
        "--------  ------------  -------  -------",
        "kd        96.33 ± 0.06        3  <0.0001",
        "kd, a_b   -                  10",
    ]


def test_texts_are_never_read_as_numbers():
    found = align_columns([["name", "code"], ["1e5", "007"], ["0.50", "4"]]).splitlines()
    assert found[2:] == ["1e5        007", "0.50         4"]


def test_several_heads():
    found = align_columns([["teacher", "a"], ["student", "b"], ["kd", "1.0"]], heads=2)
    assert found.splitlines()[:2] == ["teacher      a", "student      b"]


def test_no_rows():
    assert align_columns([["run", "code"]]).splitlines()[0] == "run    code"


def test_markdown():
    assert write_markdown_table(ROWS[:2]).splitlines() == [
        "| method   |   mean ± std |   seeds |       p |",
        "|:---------|-------------:|--------:|--------:|",
        "| kd       | 96.33 ± 0.06 |       3 | <0.0001 |",
    ]
