import csv
import runpy
from collections import Counter

import pytest

from kdbench.config.compose import CONF
from kdbench.errors import DataError
from kdbench.report import published
from kdbench.report.published import FOLDER, KINDS, find, find_teacher, load, load_all, names
from tests.helpers.paths import ROOT

ROWS = [row for rows in load_all().values() for row in rows]


def test_nothing_is_lost():
    assert len(ROWS) == 885
    assert sum(row.confidence == "from-memory" for row in ROWS) == 18
    assert len(names()) == 15


def test_every_row_says_where_it_is_from():
    for row in ROWS:
        assert row.paper
        assert row.table
        assert row.source
        assert row.confidence in ("read-from-source", "from-memory")
        assert row.kind in KINDS
        assert 0 < row.top1_mean < 100


def test_every_row_says_of_which_epoch_it_is_as_far_as_its_source_does():
    assert Counter(row.selection for row in ROWS) == {"last": 183, "best": 160, "unknown": 542}
    by_work = {name: {row.selection for row in load(name) if row.kind == "own"} for name in names()}
    assert by_work["crd"] == by_work["itrd"] == {"last"}  # RepDistiller and a program made of it
    assert by_work["dkd"] == by_work["dot"] == by_work["lskd"] == {"best"}  # mdistiller, LS
    assert by_work["ttm"] == by_work["ctkd"] == by_work["dist"] == {"unknown"}
    assert {row.selection for row in ROWS if row.confidence == "from-memory"} == {"unknown"}


def test_a_quoted_number_is_of_the_epoch_that_its_origin_is_of():
    quoted = {(r.quoted, r.student, r.top1_mean): r.selection for r in load("ttm") if r.quoted}
    assert quoted["DKD", "resnet20", 71.97] == "best"  # as mdistiller has it
    assert quoted["DIST", "resnet20", 71.75] == "unknown"  # as is that of DIST's own README


def test_the_choice_says_of_which_epoch_it_is():
    assert find("cifar100", "resnet56", "resnet20", "kd").selection == "last"
    assert find("cifar100", "resnet56", "resnet20", "dkd").selection == "best"
    assert find("cifar100", "resnet56", "resnet20", "ctkd").selection == "unknown"
    assert find("cifar100", None, "resnet20", "scratch").selection == "last"
    assert find_teacher("cifar100", "resnet56").selection == "last"


def test_names_are_those_of_conf():
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    networks = {path.stem for path in (CONF / "student").rglob("*.yaml")}
    assert {row.method for row in ROWS} - {""} <= methods
    students = {row.student for row in ROWS if row.dataset == "cifar100"} - {"plain_cnn_2"}
    assert students <= networks
    for pair in (CONF / "pair").glob("imagenet_*.yaml"):
        _, teacher, student = pair.stem.split("_")
        assert find("imagenet", teacher, student, "kd")


@pytest.mark.shared
def test_files_are_what_the_script_makes(shared):
    script = runpy.run_path(str(ROOT / "scripts" / "import_published.py"))
    with (shared / "reference" / "published-results.csv").open(newline="") as file:
        made = script["clean"](csv.DictReader(file))
    assert set(made) == set(names())
    for work, rows in made.items():
        assert (FOLDER / f"{work}.csv").read_bytes() == script["render"](rows), work


@pytest.mark.parametrize(
    ("cell", "value", "rule"),
    [
        (("cifar100", "resnet56", "resnet20", "kd"), 70.66, "own paper"),
        (("cifar100", "resnet110", "resnet20", "logit_std"), 71.48, "own paper"),
        (("imagenet", "resnet34", "resnet18", "kd"), 71.03, "quoted in another work: LSKD"),
        (("imagenet", "resnet34", "resnet18", "dkd"), 71.70, "own paper"),
        (("imagenet", "resnet34", "resnet18", "dkd_ctkd"), 71.51, "own paper"),
        (("cifar100", "resnet56", "resnet8", "dtkd"), 62.57, "released log, file or figure"),
        (("cifar100", "resnet56", "resnet20", "dkd_rlkd"), 71.89, "released log, file or figure"),
        (("cifar100", "resnet32x4", "shufflenetv1", "mlkd"), 77.18, "from memory"),
        (("cifar100", None, "resnet8x4", "scratch"), 72.50, "baseline: CRD"),
    ],
)
def test_the_rule(cell, value, rule):
    found = find(*cell)
    assert found.value == value
    assert found.rule.startswith(rule)


def test_disagreement_is_shown():
    found = find("imagenet", "resnet34", "resnet18", "kd")
    assert (found.low, found.high) == (70.66, 71.37)
    assert found.is_disputed
    assert not find("cifar100", "resnet56", "resnet20", "kd").is_disputed


def test_no_number_is_invented():
    assert find("cifar100", "resnet56", "resnet20", "atkd") is None
    assert find("cifar100", "resnet56", "resnet20", "") is None
    assert find("mnist5k", "resnet20", "resnet8", "kd") is None
    assert find_teacher("mnist5k", "resnet20") is None


def test_library_prefixes_do_not_matter():
    assert find("imagenet", "torchvision:resnet50", "timm:mobilenetv1_100", "dkd").value == 72.05
    assert find_teacher("imagenet", "torchvision:resnet34").value == 73.31
    assert find_teacher("cifar100", "resnet56").value == 72.34


def test_an_unknown_work():
    with pytest.raises(DataError, match="available: crd, lskd"):
        load("nowhere")


@pytest.mark.parametrize(
    "change",
    [("kind", "gossip"), ("selection", "first"), ("top1_mean", "n/a"), ("paper", None)],
)
def test_a_damaged_file(tmp_path, monkeypatch, change):
    lines = (FOLDER / "dot.csv").read_text().splitlines()
    row = dict(zip(published.COLUMNS, next(csv.reader(lines[1:2])), strict=True))
    row[change[0]] = change[1]
    kept = {name: value for name, value in row.items() if value is not None}
    with (tmp_path / "damaged.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept))
        writer.writeheader()
        writer.writerow(kept)
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"damaged\.csv"):
        load("damaged")
