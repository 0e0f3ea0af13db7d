"""The documentation: references from docstrings and conf/, pages, links."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from scripts import docs_pages
from tests.helpers.paths import ROOT

ELSEWHERE = re.compile(
    r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|srcset|href)=[\"']?(?:https?:)?//"
)
GROUPS = {"temperature": "strategies", "objective": "objectives"}


def section(text, name):
    """What stands below a heading."""
    return re.split(r"\n##+ ", re.split(rf"\n##+ {re.escape(name)}\n", text)[1])[0]


@pytest.mark.parametrize(("group", "page"), GROUPS.items())
def test_every_option_has_its_options(group, page):
    text = docs_pages.REFERENCES[page]()
    for path in (ROOT / "conf" / group).rglob("*.yaml"):
        name = str(path.relative_to(ROOT / "conf" / group).with_suffix(""))
        own = section(text, name)
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                assert line in own


def test_every_strategy_has_its_rule_and_source():
    text = docs_pages.list_strategies()
    for name, path in docs_pages.options("temperature"):
        about = docs_pages.read_class(docs_pages.target_of(path))
        own = section(text, name)
        assert about.facts["Rule"] in own
        assert len(about.facts["Source"]) > 5
        assert "**Source.**" in own
        assert "**Gradient.**" in own
        assert "**Deviations.**" in own


def test_every_loss_of_every_objective_has_its_rule_and_source():
    text = docs_pages.list_objectives()
    losses = text.split("\n## Losses\n")[1]
    for _, path in docs_pages.options("objective"):
        terms = yaml.safe_load(path.read_text())["terms"].values()
        for target in (t for term in terms for t in docs_pages.targets(term["loss"])):
            if ".objective." in target:
                about = docs_pages.read_class(target)
                own = section(f"\n{losses}", target.rpartition(".")[2])
                assert about.facts["Rule"] in own
                assert "**Source" in own


def test_cross_entropy_is_listed_for_each_view():
    strong = [
        name
        for name, path in docs_pages.options("objective")
        if "| cross-entropy | 0.1 |  | strong |"
        in docs_pages.show_terms(yaml.safe_load(path.read_text()))
    ]
    assert {"mlkd", "mlkd_atkd", "mlkd_logit_std"} == set(strong)


def test_every_method_and_table_is_listed():
    for group, page in (("method", "methods"), ("table", "tables")):
        text = docs_pages.REFERENCES[page]()
        for name, _ in docs_pages.options(group):
            assert text.count(f"| `{name}` |") == 1


def test_exit_codes_are_those_of_the_errors():
    text = docs_pages.list_exit_codes() + (ROOT / "docs" / "exit-codes.md").read_text()
    codes = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert set(map(int, codes)) == {*range(12), 75, 130, 141}


def test_sections_of_a_docstring():
    about = docs_pages.About(
        "Does it\nwell.\n\nRule: a = b\n    + c,\n        d.\n"
        "Source: <X> et al., arXiv 1503.02531.\n\nMore."
    )
    assert about.summary == "Does it well."
    assert about.facts["Rule"] == "a = b\n+ c,\n    d."
    written = about.write()
    assert "```text\na = b\n+ c,\n    d.\n```" in written
    assert r"\<X\> et al., [arXiv 1503.02531](https://arxiv.org/abs/1503.02531)." in written
    assert docs_pages.escape("``a_b`` * `c`") == r"`a_b` \* `c`"


def build(folder, *options):
    """Exit code and output of mkdocs, without a network that it could ask."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder, *options]
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_site_is_built_offline_and_asks_nobody(tmp_path):
    code, said = build(tmp_path)
    assert code == 0, said
    assert "WARNING" not in said
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "strategies.html", "security.html"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text()
        assert not ELSEWHERE.search(text)
        assert "make docs</code> builds this" not in text  # for readers of the file itself
        for image in re.findall(r'<(?:img|source)\b[^>]*\b(?:src|srcset)="([^"]+)"', text):
            assert (page.parent / image).exists()


@pytest.mark.parametrize("link", ["[x](missing.md)", "[x](guide.md#missing)"])
def test_a_broken_link_fails(tmp_path, link):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text("# Guide\n")
    (docs / "index.md").write_text(f"# Home\n{link}\n")
    settings = (ROOT / "mkdocs.yml").read_text()
    settings = re.sub(r"^hooks:.*\n", "", settings, flags=re.MULTILINE).partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(settings)
    code, said = build(tmp_path / "site", "--config-file", tmp_path / "mkdocs.yml")
    assert code == 1
    assert "missing" in said
