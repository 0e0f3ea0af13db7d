"""What surrounds the package: version, licence, citations, changelog, ignored folders."""

import ast
import re
import subprocess
import tomllib
from importlib.metadata import metadata

import pytest
import yaml

from kdbench import __version__
from kdbench.records.environment import describe_environment
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
GROUPS = ("temperature", "objective", "method")
ARXIV = re.compile(r"arXiv[ :]\s*(\d{4}\.\d{4,5})")


def sources():
    """The docstrings of everything that a method is made of."""
    for folder in ("temperature", "objective", "plugin"):
        for path in (ROOT / "kdbench" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef | ast.Module):
                    yield path.name, ast.get_docstring(node) or ""


def test_the_version_is_written_down_once():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "kdbench/__init__.py"
    assert "version" not in CITATION
    assert describe_environment()["versions"]["kdbench"] == __version__  # that of records


def test_the_changelog_begins_with_this_version():
    release, _, development = __version__.partition(".dev")
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert first == f"Unreleased ({release})" if development else first.startswith(f"{release} (")


def test_licence():
    assert PROJECT["project"]["license"] == CITATION["license"] == "MIT"
    assert "kdbench contributors" in (ROOT / "LICENSE").read_text()
    assert metadata("kdbench")["Name"] == PROJECT["project"]["name"]


def test_forms_and_workflows_are_yaml():
    files = [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]
    content = {path.name: yaml.safe_load(path.read_text()) for path in files}
    steps = content["ci.yml"]["jobs"]["check"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = content[path.name]
        assert form.keys() == {"blank_issues_enabled"} or {"name", "description", "body"} <= set(
            form
        )


def test_every_work_with_a_preprint_is_cited():
    known = {
        identifier["value"].removeprefix("arXiv:")
        for work in CITATION["references"]
        for identifier in work.get("identifiers", ())
    }
    used = {number for _, text in sources() for number in ARXIV.findall(text)}
    assert used
    assert used <= known


def test_citations_have_what_a_citation_needs():
    for work in CITATION["references"]:
        assert work["type"] in ("article", "conference-paper")
        assert work["title"]
        assert work["authors"]
        assert 1990 < work["year"] <= 2030
        assert ("journal" in work) != ("conference" in work)
    titles = [work["title"] for work in CITATION["references"]]
    assert len(set(titles)) == len(titles)


def test_only_the_readme_of_outputs_is_tracked():
    done = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "outputs"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == ["outputs/README.md"]
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", "outputs/runs/record.json"])
    assert ignored.returncode == 0
    clean = subprocess.run(["make", "-C", ROOT, "-n", "clean"], capture_output=True, text=True)
    assert "rm -rf" in clean.stdout
    assert "outputs" not in clean.stdout


def test_the_readme_is_short_and_its_links_hold():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    local = {a or b for a, b in links if not (a or b).startswith("https://")}
    assert "docs/guide.md" in local
    assert [link for link in local if not (ROOT / link.partition("#")[0]).is_file()] == []


def test_what_the_readme_counts():
    text = (ROOT / "README.md").read_text()
    groups = {group: list((ROOT / "conf" / group).glob("*.yaml")) for group in GROUPS}
    assert f"**{len(groups['temperature'])} strategies" in text
    assert f"{len(groups['objective'])} objectives" in text
    assert len(groups["method"]) > 30
    published = (ROOT / "kdbench/report/published").glob("*.csv")
    rows = sum(len(path.read_text().splitlines()) - 1 for path in published)
    assert f"**{rows} published numbers**" in text
    study = (ROOT / "docs/studies/temperature_survey/table.md").read_text()
    assert f"of the {study.count('| kd') + study.count('| scratch')} rows" in text


def test_paths_that_the_documents_name_exist():
    """But for those with a NAME to fill in, and the example of docs/own.md."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = re.compile(r"`((?:kdbench|conf|scripts|tests|docs)/[\w./]+)`")
    found = {path for document in documents for path in named.findall(document.read_text())}
    missing = {path for path in found if "NAME" not in path and not (ROOT / path).exists()}
    assert missing == {"conf/temperature/sure.yaml"}
    assert len(found) > 20
