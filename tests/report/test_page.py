import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from kdbench.records.collect import collect
from kdbench.report import page as page_module
from kdbench.report.cells import Options
from kdbench.report.page import write_page
from kdbench.report.table import build_table
from tests.helpers.synthetic import Study, write_run, write_study, write_trouble

SMALL = Study(
    rows=(("scratch", "none"), ("kd", "constant"), ("kd", "cosine"), ("kd", "dtkd")),
    pairs=("resnet56_resnet20",),
    seeds=3,
    epochs=16,
)
SCRIPT = "<script>alert(1)</script>"
QUOTE = "\" onload='alert(1)' x=\""
VOID = {"meta", "br"}
ALLOWED = """
    html head meta title style body nav main header section article aside p a ul ol li dl dt dd div
    span b small sup h1 h2 h3 h4 pre details summary table thead tbody tr th td figure figcaption
    svg g defs use path circle text clippath rect
"""


class Page(HTMLParser):
    """What a browser would make of a file, as far as tests ask."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, *names):
        return [value for name, value in self.attributes if name in names]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def make_page(outputs, place=None, **options):
    path = place or outputs / "report" / "report.html"
    path.parent.mkdir(exist_ok=True)
    found = collect(outputs)
    write_page(path, found, build_table(found.runs, found.unfinished, Options(**options)))
    return path.read_text()


def test_files_without_curves_are_returned(study, tmp_path):
    found = collect(study)
    table = build_table(found.runs, found.unfinished, Options())
    (problem,) = write_page(tmp_path / "report.html", found, table)
    assert "kd-step/seed93/metrics.csv cannot be read" in problem


def check_safe(text):
    """Runs nothing, asks nobody, and every link leads somewhere."""
    page = Page(text)
    assert set(page.tags) <= set(ALLOWED.split())
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    allowed = re.compile(r"[\w\s:;.,#'()-]*")  # of matplotlib
    assert all(allowed.fullmatch(style) for style in page.all("style"))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for link in page.all("href", "src", "xlink:href"):
        if link.startswith("data:image/svg+xml;base64,"):
            assert "<script" not in base64.b64decode(link.partition(",")[2]).decode()
            continue
        assert not re.match(r"[a-z]+:|//", link, re.IGNORECASE), link
        assert not link.startswith("#") or link[1:] in ids, link
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text
    return page


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, SMALL)
    write_trouble(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def text(study):
    return make_page(study)


def test_is_one_safe_file(text):
    check_safe(text)


def test_says_what_is_in_it(text):
    output = Page(text).text
    for words in (
        "13 done, 1 failed, 1 unfinished",
        "resnet56 (72.34 % on test)",
        "record.json is damaged",
        "cannot be read as a table of numbers",
        "ce, kd not finite at step 71",
        "kd-linear/seed92",
        "best epoch*",
        "picked on the test set",
        "few seeds",
        "signed-rank p",
        "simultaneous 95 % interval",
        "agreement with the teacher, %",
        "share of the teacher, % of training alone",
        "kdbench-train -m temperature=dtkd seed=2",
        "_target_: kdbench.temperature.dtkd",
    ):
        assert words in output, words


def test_links_lead_to_the_files(study, text):
    links = [link for link in Page(text).all("href") if not link.startswith(("#", "data:"))]
    assert len(links) > 40
    assert [x for x in links if not os.path.exists(study / "report" / unquote(x))] == []


@pytest.mark.parametrize("evil", [SCRIPT, QUOTE, "]]><b>{{ 7 * 7 }}</b><!--", "&lt;b>", "a\x00b"])
def test_names_stay_text(tmp_path, evil):
    """Of methods, of errors, in commands and configs, in environments: in all places."""
    study = Study(rows=(("kd", "constant"),), pairs=("a_b",), seeds=1, epochs=6, dataset="fake")
    names = {"dataset": evil, "pair": evil, "student": evil, "teacher": evil}
    circumstances = {"command": [evil], "environment": {evil: evil}, "device": evil}
    changes = {**names, **circumstances, "config": {evil: [evil]}}
    for seed, temperature in enumerate((evil, "dtkd", evil)):
        folder = tmp_path / f"run {seed}"
        write_run(folder, study, "a_b", "kd", "x", seed, temperature=temperature, **changes)
    failed = {"status": "failed", "reason": evil, "top1_last": None, "test": {}}
    write_run(tmp_path / "failed", study, "a_b", "kd", "x", 9, **failed, **changes)
    page = check_safe(make_page(tmp_path, baseline=f"kd, {evil}"))
    assert page.text.count(" ".join(evil.split())) > 20


@pytest.mark.parametrize("name", ["javascript:alert(1)", '"><script>', "a b#c?d%20e", "ü", "&amp;"])
def test_folders_of_any_name_are_linked(tmp_path, name):
    write_run(tmp_path / name, SMALL, "a_b", "kd", "constant", 0)
    links = check_safe(make_page(tmp_path, tmp_path / "report.html")).all("href")
    assert any(unquote(link) == f"{name}/cifar100/a_b/kd-constant/seed0/" for link in links)


def test_folder_that_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    write_run(folder, SMALL, "a_b", "kd", "constant", 0)
    assert "%FF/" in make_page(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"baseline": "nothing"},
        {"metric": "epochs_to.60"},
        {"metric": "nll"},
        {"rows": "temperature", "columns": "dataset", "baseline": "constant"},
        {"rows": "student", "columns": "method"},
        {"sort": "mean", "protocol": "paper"},
        {"planned": {("kd", "cifar100, resnet56_resnet20"): {0, 1, 7}, ("new", "other"): {0}}},
    ],
)
def test_any_table(study, options):
    check_safe(make_page(study, **options))


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_single_run(tmp_path, status):
    failed = {"status": "failed", "reason": "lost", "top1_last": None, "test": {}}
    changes = failed if status == "failed" else {}
    write_run(tmp_path, SMALL, "a_b", "kd", "dtkd", 0, **changes)
    output = check_safe(make_page(tmp_path)).text
    assert f"1 {status}" in output
    assert "no baseline to compare with" in output


def test_runs_without_curves(tmp_path):
    folder = write_run(tmp_path, SMALL, "a_b", "kd", "constant", 0, metrics_digest=None)
    (folder / "metrics.csv").unlink()
    (folder / "timings.csv").unlink()
    output = check_safe(make_page(tmp_path)).text
    assert "This column has no learning curves." in output
    assert "in no figure, because of invalid metrics" in output
    assert "metrics.csv cannot be read" in output


def test_one_epoch_can_be_seen(tmp_path):
    for temperature in ("constant", "dtkd"):
        write_run(tmp_path, Study(epochs=1), "a_b", "kd", temperature, 0)
    text = make_page(tmp_path)
    check_safe(text)
    assert "1 epochs" not in text
    lines = re.findall(r'<g class="row">.*?</g>', text, flags=re.DOTALL)
    assert lines
    assert all("<use" in line for line in lines)  # a dot


def test_numbers_that_are_not_finite(tmp_path):
    changes = {"test": {"nll": float("nan"), "ece": float("inf"), "top1": 1.0}}
    changes |= {"metrics_digest": None}
    folder = write_run(tmp_path, SMALL, "a_b", "kd", "dtkd", 0, **changes)
    rows = (folder / "metrics.csv").read_text().splitlines()
    broken = [rows[0], *(re.sub(r",[^,]+", ",nan", row) for row in rows[1:4]), *rows[4:]]
    (folder / "metrics.csv").write_text("\n".join(broken) + "\n")
    text = make_page(tmp_path)
    check_safe(text)
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"[\"\s,M]nan[\s,\"]", drawn)


def test_strict_runs_show_their_validation_curve(tmp_path):
    for seed in range(2):
        changes = {"protocol": "strict", "metrics_digest": None}
        folder = write_run(tmp_path, SMALL, "a_b", "kd", "dtkd", seed, **changes)
        metrics = folder / "metrics.csv"
        metrics.write_text(metrics.read_text().replace("test/", "val/"))
    assert "validation accuracy (top-1), %" in Page(make_page(tmp_path)).text


def test_many_runs_are_a_list(study, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_RUNS", 5)
    page = check_safe(make_page(study, study / "report" / "list.html"))
    assert "Too many runs for a section each (14, the limit is 5)" in page.text
    assert page.tags.count("pre") == 0


def test_every_figure_can_be_saved(text):
    names = [value for name, value in Page(text).attributes if name == "download"]
    assert names == [
        f"cifar100-resnet56_resnet20-{name}.svg"
        for name in ("learning", "difference", "temperature", "temperature-means", "cost")
    ]


def test_same_runs_same_bytes(study, text):
    assert make_page(study) == text


def test_starts_without_torch():
    check = "import sys, kdbench.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
