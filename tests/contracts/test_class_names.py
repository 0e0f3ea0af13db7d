"""One word means one thing: no public class or type alias of the package has a namesake."""

import ast
from collections import defaultdict

import pytest

from tests.helpers.paths import ROOT

# Names that networks have in the papers and in torchvision, where each file is one network family.
ALLOWED = {
    "BasicBlock": "kdbench/model/cifar/",
    "ResNet": "kdbench/model/cifar/",
}


def find_names(root):
    """Name -> files that define a class or an alias of that name, at their top."""
    found = defaultdict(list)
    for folder in ("kdbench", "hydra_plugins"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if (name := _name(node)) is not None:
                    found[name].append(str(path.relative_to(root)))
    return found


def _name(node):
    if isinstance(node, ast.ClassDef):
        name = node.name
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
    else:
        return None
    is_type = name[0].isupper() and not name.isupper()
    return name if is_type else None


def namesakes(root):
    return {name: files for name, files in find_names(root).items() if len(files) > 1}


def test_no_two_classes_have_one_name():
    doubled = {
        name: files
        for name, files in namesakes(ROOT).items()
        if not all(file.startswith(ALLOWED.get(name, "-")) for file in files)
    }
    assert doubled == {}


def test_what_is_allowed_is_still_there():
    assert set(ALLOWED) <= set(namesakes(ROOT))


@pytest.mark.parametrize("text", ["class View:\n    pass", "View = tuple[str, str]"])
def test_a_namesake_is_found(tmp_path, text):
    for name, content in (("kdbench/a.py", "class View:\n    pass"), ("kdbench/b/c.py", text)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert namesakes(tmp_path) == {"View": ["kdbench/a.py", "kdbench/b/c.py"]}
