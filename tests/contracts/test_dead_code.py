"""What the package defines, it uses: functions, classes and constants for tests are in tests/."""

import ast
import re
from collections import Counter

from tests.helpers.paths import ROOT

# What libraries call by its name.
CALLED_BY_OTHERS = {
    "emit": "logging.Handler",
    "handleError": "logging.Handler",
    "find_class": "pickle.Unpickler",
    "manipulate_search_path": "hydra.plugins.search_path_plugin.SearchPathPlugin",
    "setup_context": "torch.autograd.Function",
}
_SUFFIXES = (".py", ".html", ".yaml", ".toml")


def defined(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (t.id for t in targets if isinstance(t, ast.Name))


def test_whatever_is_defined_is_used():
    sources = [
        path
        for folder in ("kdbench", "hydra_plugins", "scripts", "conf")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in _SUFFIXES
    ] + [ROOT / "pyproject.toml"]
    words = Counter(word for path in sources for word in re.findall(r"\w+", path.read_text()))
    unused = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources
        if path.suffix == ".py" and not path.is_relative_to(ROOT / "scripts")
        for name in defined(path)
        if words[name] < 2 and not name.startswith("__") and name not in CALLED_BY_OTHERS
    ]
    assert unused == []
