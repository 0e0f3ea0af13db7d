"""What `make docs` adds to the pages of docs/: a hook of mkdocs.

- A comment such as ``<!-- strategies -->`` becomes a reference, built from the docstrings of the
  classes (Rule, Source, ...) and from ``conf/``. Classes are read as text: torch is not imported.
- README.md becomes the home page; the other documents outside of docs/ become pages.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdbench.errors import ExitCode

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# Page -> the document outside of docs/ that it is made of.
DOCUMENTS = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "outputs.md": "outputs/README.md",
    "citing.md": "CITATION.cff",
}
_SECTION = re.compile(r"^([A-Z][a-z ,]+): (.*)$")
_FACTS = ("Rule", "Source", "Source, deviations", "Shapes and ranges", "Scale", "Gradient")
_TARGET = "_target_"
_ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
_SPECIAL = re.compile(r"([\\*_<>\[\]|#])")


def on_files(files: Any, config: Any) -> Any:
    """Adds the documents outside of docs/ (called by mkdocs)."""
    from mkdocs.structure.files import File

    for page, document in DOCUMENTS.items():
        text = list_citations() if page == "citing.md" else (ROOT / document).read_text()
        files.append(File.generated(config, page, content=link_pages(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the references (called by mkdocs)."""
    return fill(markdown)


def fill(markdown: str) -> str:
    """A page with its references, and with links that hold on the site."""
    for name, write in REFERENCES.items():
        # What else stands on the line is for those who read the file itself.
        line = re.compile(rf"^<!-- {name} -->.*$", re.MULTILINE)
        if line.search(markdown):
            text = write()
            markdown = line.sub(lambda _, text=text: text, markdown)
    return link_pages(markdown)


def link_pages(markdown: str) -> str:
    """Links to documents outside of docs/, and to docs/ from there, become links to pages."""
    for page, document in DOCUMENTS.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(document)}\b", f"]({page}", markdown)
    return re.sub(r'(\]\(|(?:src|srcset|href)=")docs/', r"\1", markdown)


def list_strategies() -> str:
    """Every option of the group ``temperature``."""
    found = [(name, path, read_class(target_of(path))) for name, path in options("temperature")]
    rows = [
        (f"[`{name}`](#{name.replace('/', '')})", escape(about.summary), source_of(about))
        for name, _, about in found
    ]
    parts = [table(("`temperature=`", "what it does", "source"), rows)]
    for name, path, about in found:
        parts += [f"## {name}", escape(about.summary), about.write(), show_options(path)]
    return "\n\n".join(parts)


def list_objectives() -> str:
    """Every option of the group ``objective``, and the losses that they are made of."""
    found = [(name, path, yaml.safe_load(path.read_text())) for name, path in options("objective")]
    parts, losses = [], {}
    rows = []
    for name, path, node in found:
        used = {target for term in node["terms"].values() for target in targets(term.get("loss"))}
        losses |= {target.rpartition(".")[2]: target for target in used}
        links = [
            f"[{loss}](#{loss.lower()})" for loss in sorted(t.rpartition(".")[2] for t in used)
        ]
        rows.append((f"[`{name}`](#{name})", ", ".join(links) or "cross-entropy alone"))
        comment = link_preprints(escape(comment_of(path)))
        parts += [f"## {name}", comment, show_terms(node), show_options(path)]
    parts.insert(0, table(("`objective=`", "losses"), rows))
    parts.append("## Losses")
    for loss, target in sorted(losses.items()):
        about = read_class(target)
        parts += [f"### {loss}", escape(about.summary), about.write()]
    return "\n\n".join(parts)


def list_methods() -> str:
    """Every option of the group ``method``."""
    rows = []
    for name, path in options("method"):
        chosen = overrides_of(path)
        objective = chosen.get("objective", "kd")
        temperature = chosen.get("temperature", "constant")
        rows.append(
            (
                f"`{name}`",
                link_preprints(escape(comment_of(path))),
                f"[{objective}](objectives.md#{objective})",
                f"[{temperature}](strategies.md#{temperature.replace('/', '')})"
                if objective != "ce"
                else "",
            )
        )
    return table(("`method=`", "what it is, and where its values are from", "objective",
                  "temperature"), rows)  # fmt: skip


def list_tables() -> str:
    """Every option of the group ``table``: rows, columns and seeds."""
    rows = []
    for name, path in options("table"):
        params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
        lists = {key: str(value).replace(" ", "").split(",") for key, value in params.items()}
        methods = ", ".join(f"`{method}`" for method in lists["method"])
        axis = next((key for key in ("pair", "teacher", "temperature") if key in lists), None)
        columns = f"{len(lists[axis])} {axis}s" if axis else "one"
        columns = columns.replace("temperatures", "strategies")
        seeds = params["seed"].removeprefix("range(").removesuffix(")")
        about = link_preprints(escape(comment_of(path)))
        rows.append((f"`{name}`", about, methods, columns, seeds))
    return table(("table", "what it is", "methods", "columns", "seeds"), rows)


def list_exit_codes() -> str:
    """Every exit code of ``kdbench/errors.py``."""
    rows = [(str(int(code)), escape(code.meaning)) for code in ExitCode]
    return table(("code", "meaning"), rows)


def list_citations() -> str:
    """Every work of CITATION.cff, and where it is used."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    lines = ["# Citing", escape(citation["message"])]
    for work in citation["references"]:
        authors = ", ".join(
            author.get("name") or " ".join((author["given-names"], author["family-names"]))
            if "given-names" in author or "name" in author
            else author["family-names"]
            for author in work["authors"]
        )
        venue = work.get("journal") or work["conference"]["name"]
        preprint = "".join(f", {entry['value']}" for entry in work.get("identifiers", ()))
        facts = link_preprints(escape(f"{authors}. {venue}, {work['year']}{preprint}."))
        lines.append(f"**{escape(work['title'])}**<br>{facts}<br>`{work['notes']}`")
    return "\n\n".join(lines) + "\n"


REFERENCES: Mapping[str, Callable[[], str]] = {
    "strategies": list_strategies,
    "objectives": list_objectives,
    "methods": list_methods,
    "tables": list_tables,
    "exit codes": list_exit_codes,
}


class About:
    """What a docstring says of its class.

    Attributes:
        summary: its first paragraph.
        facts: "Rule", "Source", ... -> text.
    """

    def __init__(self, docstring: str) -> None:
        self.summary = first_paragraph(docstring)
        self.facts = dict(read_sections(docstring))

    def write(self) -> str:
        """The facts as Markdown; a rule keeps its lines."""
        parts = []
        for name, text in self.facts.items():
            if name == "Rule":
                parts.append(f"```text\n{text}\n```")
            else:
                text = join(text)
                text = text[:1].upper() + text[1:]
                parts.append(f"**{name}.** {link_preprints(escape(text))}")
        return "\n\n".join(parts)


def read_sections(docstring: str) -> Iterator[tuple[str, str]]:
    """The parts ``Name: text`` of a docstring, with their indented lines."""
    name, lines = "", []
    for line in [*docstring.splitlines(), ""]:
        begins = _SECTION.match(line)
        if name and line.startswith("    "):
            lines.append(line[4:])
            continue
        if name:
            yield name, "\n".join(lines)
        name, lines = (begins[1], [begins[2]]) if begins else ("", [])


@cache
def read_class(target: str) -> About:
    """The docstring of a class, by its dotted path.

    Raises:
        KeyError: there is no such class, or it has no docstring.
    """
    module, _, name = target.rpartition(".")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name and ast.get_docstring(node):
            return About(ast.get_docstring(node) or "")
    raise KeyError(f"{target} has no docstring")


def options(group: str) -> list[tuple[str, Path]]:
    """Name and file of each option of a group of ``conf/``."""
    folder = CONF / group
    return sorted((str(p.relative_to(folder).with_suffix("")), p) for p in folder.rglob("*.yaml"))


def target_of(path: Path) -> str:
    """The class of an option: its own, or that of the option which it changes."""
    node = yaml.safe_load(path.read_text())
    if _TARGET in node:
        return node[_TARGET]
    first = next(entry for entry in node["defaults"] if entry != "_self_")
    return target_of(CONF / f"{first.partition('@')[0].strip('/')}.yaml")


def overrides_of(path: Path) -> dict[str, str]:
    """Group -> option that a file chooses."""
    entries = yaml.safe_load(path.read_text()).get("defaults", [])
    found = {
        key: value for entry in entries if isinstance(entry, dict) for key, value in entry.items()
    }
    return {key.removeprefix("override /"): value for key, value in found.items()}


def targets(node: Any) -> Iterator[str]:
    """All classes in a node, outermost first."""
    if isinstance(node, dict):
        if _TARGET in node:
            yield node[_TARGET]
        for value in node.values():
            yield from targets(value)


def show_terms(node: Mapping[str, Any]) -> str:
    """The sum that an objective is."""
    views = {"weak": node["ce_weight"], **node.get("ce_views", {})}
    rows = [("cross-entropy", f"{weight:g}", "", v, "") for v, weight in views.items() if weight]
    for name, term in node["terms"].items():
        names = [target.rpartition(".")[2] for target in targets(term["loss"])]
        chain = " of ".join(f"[{loss}](#{loss.lower()})" for loss in loss_chain(names))
        own = term.get("strategy") or {}
        strategy = own.get(_TARGET, "").rpartition(".")[2]
        rows.append((f"`{name}`", f"{term['weight']:g}", chain, term.get("view", "weak"), strategy))
    return table(("term", "weight", "loss", "view", "strategy of its own"), rows)


def loss_chain(names: Sequence[str]) -> list[str]:
    """Losses around losses; the strategies in between are in the options."""
    strategies = {read_name(path) for _, path in options("temperature")}
    return [name for name in dict.fromkeys(names) if name not in strategies]


@cache
def read_name(path: Path) -> str:
    return target_of(path).rpartition(".")[2]


def show_options(path: Path) -> str:
    """The file of an option without the comment that it begins with."""
    lines = path.read_text().splitlines()
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    where = f"conf/{path.relative_to(CONF)}"
    body = "\n".join(f"    {line}".rstrip() for line in lines)
    return f'??? abstract "Options: {where}"\n\n    ```yaml\n{body}\n    ```'


def comment_of(path: Path) -> str:
    """The comment that a file begins with, as one line."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def source_of(about: About) -> str:
    return link_preprints(escape(join(about.facts["Source"])))


def first_paragraph(docstring: str) -> str:
    return join(docstring.partition("\n\n")[0])


def join(text: str) -> str:
    return " ".join(text.split())


def escape(text: str) -> str:
    """Text for Markdown; what stands between backticks is code."""
    parts = re.split(r"``(.+?)``|`(.+?)`", join(text))
    plain = [_SPECIAL.sub(r"\\\1", part) for part in parts[::3]]
    code = [
        f"`{double or single}`" for double, single in zip(parts[1::3], parts[2::3], strict=True)
    ]
    return "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)


def link_preprints(text: str) -> str:
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
