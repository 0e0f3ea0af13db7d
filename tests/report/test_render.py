import csv
import io
import re

import pytest

from kdbench.report.render import (
    explain,
    layout_blocks,
    write_csv,
    write_latex,
    write_markdown,
    write_text,
)
from tests.report.test_table import PAIR, build, run, runs

DKD = [71.0 + i / 10 + (0.2 if i == 3 else 0.0) for i in range(7)]
NASTY = r'<script>alert("1")</script> & $x_1^2$ {a} \b #5 ~100% | *y* `z`'


@pytest.fixture
def table():
    found = [
        *runs("scratch", [68.0 + i / 10 for i in range(7)]),
        *runs("kd", [70.0 + i / 10 for i in range(7)]),
        *runs("dkd", DKD),
        run("ctkd", 0, 70.0),
        run("ctkd", 1, status="failed"),
    ]
    return build(found)


def test_text_has_everything(table):
    text = write_text(table)
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in text.splitlines()}
    assert text.startswith("cifar100, 240 epochs, protocol paper\n")
    assert lines["teacher"] == "teacher 72.00 72.34 (last) -0.34"
    assert lines["kd"] == "kd 70.30 ± 0.22 7 71.30 70.66 (last) -0.36 (last)"
    assert lines["dkd"].startswith(
        "dkd 71.33 ± 0.23 (best) 7 72.33 71.97 (best) +0.36 (best) +1.03 [+0.96, +1.10] better (p<"
    )
    assert lines["dkd"].endswith(" 0.016")
    assert lines["scratch"].endswith(" no spread 0.016")  # each seed is two points below
    assert lines["ctkd"].startswith("ctkd 70.00 1, 1 failed 71.00 71.19 (?) -1.19 (last)")
    assert lines["ctkd"].endswith("too few seeds (n=1)")
    assert "picked on the test set" in text
    assert "Against kd: paired t test over seeds, Holm-adjusted" in text
    assert "assumes normally distributed differences" in " ".join(text.split())
    order = [name for name in lines if name in ("teacher", "scratch", "kd", "ctkd", "dkd")]
    assert order == ["teacher", "scratch", "kd", "ctkd", "dkd"]


def test_names_do_not_rule_the_terminal():
    text = write_text(build([run("kd", dataset="a\x1b[2J\nb")]))
    assert "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b" in text
    assert "\x1b" not in text


def test_columns_without_anything_are_left_out():
    (block,) = layout_blocks(build([run("kd", temperature="cosine", top1_best=None)]))
    assert block.rows[0] == ["method", "mean ± std", "seeds", "published", "difference"]
    (block,) = layout_blocks(build([run("kd")], metric="seconds"))
    assert block.rows == [["method", "mean ± std", "seeds"], ["kd", "1.5", "1"]]


def test_several_columns_have_an_overview(table):
    found = build([run("kd"), run("kd", pair="resnet110_resnet20"), run("dkd")])
    overview, *details = layout_blocks(found)
    assert overview.rows[0] == ["method", PAIR, "cifar100, resnet110_resnet20"]
    assert overview.rows[1] == ["teacher", "72.00", "72.00"]
    assert overview.rows[3] == ["dkd", "50.00 (1)", ""]
    assert len(details) == 2
    assert len(layout_blocks(table)) == 1


def test_planned_seeds_are_shown():
    (block,) = layout_blocks(build([run("kd")], planned={("kd", PAIR): {0, 1, 2}}))
    assert block.rows[-1][2] == "1 of 3"


def test_disputed_numbers_have_a_range():
    names = {"dataset": "imagenet", "pair": "imagenet_resnet34_resnet18"}
    names |= {"teacher": "torchvision:resnet34", "student": "torchvision:resnet18"}
    assert "71.03 (?) [70.66 to 71.37]" in write_text(build([run("kd", **names)]))


def test_only_what_is_there_is_explained(table):
    output = " ".join(explain(table))
    assert "Best epoch" in output
    assert "Significantly better than the second best of its column" in output
    assert "dkd (cifar100, resnet56_resnet20)" in output
    assert "No spread: the difference is the same for every seed" in output
    alone = build([run("kd", temperature="cosine", dataset="mnist5k")])
    assert not re.search("Against|Published|second best", " ".join(explain(alone)))


def nasty():
    return build([run("kd", dataset=NASTY), run(NASTY, temperature="x", dataset=NASTY)])


def test_markdown_is_a_table_and_escapes(table):
    lines = write_markdown(table).splitlines()
    grid = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in grid}) == 1
    assert re.match(r"\|:-+\|-+:\|", grid[1])
    assert any("**71.33 ± 0.23**" in line for line in grid)
    text = write_markdown(nasty())
    assert "<script" not in text
    assert r"\| \*y\* \`z\`" in text


def test_latex_is_whole_and_escapes(table):
    text = write_latex(table)
    assert text.count(r"\begin{tabular}{lrrrrrrrr}") == text.count(r"\end{table}") == 1
    assert r"\textbf{71.33 $\pm$ 0.23}" in text
    assert r"\label{tab:cifar100-240-epochs-protocol-paper-cifar100-resnet5" in text
    for found in (text, write_latex(nasty())):
        body = "\n".join(found.splitlines()[1:])  # the first line is a comment
        commands = re.sub(r"\\([{}$&#_%\\])", "", body)
        assert commands.count("{") == commands.count("}")
        assert not re.search(r"[#%^~<>|]", commands)
        assert set(re.findall(r"\$.*?\$", commands)) <= {r"$\pm$", "$-$"}
        rows = [line for line in found.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        known = "begin end centering caption label toprule midrule bottomrule textbf"
        known += " footnotesize par pm textbackslash textasciitilde textasciicircum"
        known += " textless textgreater textbar"
        assert set(re.findall(r"\\([a-z]+)", commands)) <= set(known.split())


def test_csv_has_every_cell_with_everything(table):
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(write_csv(table)))}
    assert list(rows) == ["teacher", "scratch", "kd", "ctkd", "dkd"]
    assert rows["teacher"]["published"] == "72.34"
    dkd = rows["dkd"]
    assert (dkd["done"], dkd["failed"], dkd["is_winner"]) == ("7", "0", "True")
    assert float(dkd["p"]) == float(dkd["adjusted_p"]) < 1e-6  # the only test: scratch has none
    assert (dkd["signed_rank_p"], dkd["signed_rank_agrees"]) == (repr(2 / 2**7), "True")
    assert [float(value) for value in dkd["values"].split()] == DKD
    assert (dkd["published_epoch"], dkd["difference_of_our_epoch"]) == ("best", "best")
    assert (dkd["is_best"], dkd["few_seeds"]) == ("True", "False")
    assert dkd["seeds"] == "0 1 2 3 4 5 6"
    assert dkd["published_arxiv"] == "2203.08679"
    assert dkd["verdict"] == "better"
    assert rows["ctkd"]["failed"] == "1"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formulas(start):
    text = write_csv(build([run(f"{start}cmd|' /C calc'!A1", temperature="x")]))
    (row,) = (row for row in csv.DictReader(io.StringIO(text)) if row["row"] != "teacher")
    assert row["row"].startswith(f"'{start}cmd")


def test_negative_numbers_stay_numbers():
    row = list(csv.DictReader(io.StringIO(write_csv(build([run("kd", top1=60.0)])))))[1]
    assert float(row["difference"]) == pytest.approx(60 - 70.66)


@pytest.mark.parametrize("write", [write_text, write_markdown, write_latex, write_csv])
def test_an_empty_table_is_no_error(write):
    assert write(build([]))


def tau(teacher, student):
    return {"pair": f"{teacher}_{student}", "teacher": teacher, "student": student}


@pytest.fixture
def several():
    """Two pairs: dkd is better in the one by three seeds, worse in the other by six."""
    near, far = tau("resnet56", "resnet20"), tau("wrn_40_2", "wrn_16_2")
    leads = {"near": [5.0, 5.1, 5.2], "far": [-5.0, -5.1, -5.2, -5.0, -5.1, -5.2]}
    return build(
        [
            *runs("kd", [70.0, 70.5, 70.2], **near),
            *runs(
                "dkd",
                [t + d for t, d in zip([70.0, 70.5, 70.2], leads["near"], strict=True)],
                **near,
            ),
            *runs("kd", [74.0] * 6, **far),
            *runs("dkd", [74.0 + d for d in leads["far"]], **far),
        ]
    )


def test_a_compact_table_has_methods_and_pairs_as_papers_print_them(several):
    text = write_text(several, compact=True)
    lines = [line.split() for line in text.splitlines()]
    assert ["teacher", "resnet56", "wrn_40_2"] in lines
    assert ["student", "resnet20", "wrn_16_2"] in lines
    assert ["kd", "70.23", "74.00", "(best)"] in lines
    assert ["dkd", "75.33", "(best)", "(+)", "68.90", "-"] in lines
    assert "Mean over 3 to 6 seeds, standard deviation 0.00 to 0.31" in text
    assert "+ and -: better and worse than kd: paired t test" in text
    assert "Published" not in text
    (block,) = layout_blocks(several, compact=True)
    assert block.heads == 2


def test_a_compact_table_in_the_other_forms(several):
    latex = write_latex(several, compact=True)
    assert r"teacher & resnet56 & wrn\_40\_2 \\" in latex
    assert latex.index("student &") < latex.index(r"\midrule") < latex.index("kd &")
    assert r"dkd & \textbf{75.33}$^{(+)}$ & 68.90$^{-}$ \\" in latex
    markdown = " ".join(write_markdown(several, compact=True).split())
    assert "| dkd | **75.33** (+) | 68.90 - |" in markdown
    rows = list(csv.DictReader(io.StringIO(write_csv(several, compact=True))))
    assert [row["method"] for row in rows] == ["teacher", "kd", "dkd"]
    rows = rows[1:]
    assert float(rows[1]["cifar100, resnet56_resnet20"]) == pytest.approx(75.3333, abs=1e-4)
    assert rows[1]["cifar100, wrn_40_2_wrn_16_2: verdict"] == "worse"
    assert rows[1]["cifar100, wrn_40_2_wrn_16_2: seeds"] == "6"


def test_a_compact_table_of_two_datasets_says_which(several):
    found = build([run("kd"), run("kd", dataset="cifar10"), run("dkd")])
    (block,) = layout_blocks(found, compact=True)
    assert block.rows[0] == ["", "cifar10", "cifar100"]
    assert block.heads == 3


def test_the_overview_has_the_marks_too(several):
    assert "75.33 ± 0.31 (3) (best) (+)" in write_text(several)
