"""The house: rooms import from rooms below them and from nowhere else, and no file is in a circle.

Imports are read from the source: those inside functions, those for annotations only, and those
that ``import_module`` makes from a plain string.
"""

import ast
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.helpers.paths import ROOT

# From the ground up. A room is a folder of the package, or a file beside them.
FLOORS = (
    ("errors", "outputs", "progress", "digest", "machine", "fault", "words", "columns"),
    ("files", "temperature"),
    ("objective", "model", "data", "records", "drawing"),
    ("teacher", "plugin", "config", "tracker"),
    ("engine", "report", "api"),
    ("launch", "planning", "evaluation"),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
LARGEST = 1 / 8  # of the code, in one room


def find_modules(root):
    """Dotted names -> files of a package and of the plugins beside it."""
    found = {}
    for folder in ("kdbench", "hydra_plugins"):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def find_imports(modules):
    """Module -> modules of the same package that it imports, wherever in its file."""
    return {name: set(_imports(name, path, modules)) for name, path in modules.items()}


def _imports(name, path, modules):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [each if each in modules else node.module for each in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
        else:
            continue
        yield from (each for each in named if each in modules and each not in (name, "kdbench"))


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "kdbench" and len(parts) > 1 else parts[0]


def upward(imports, floors):
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if room_of(module) in floors
        and room_of(other) != room_of(module)
        and floors[room_of(other)] >= floors[room_of(module)]
    ]


def circle(imports):
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return error.args[1]
    return None


@pytest.fixture(scope="module")
def modules():
    return find_modules(ROOT)


@pytest.fixture(scope="module")
def imports(modules):
    return find_imports(modules)


def test_every_room_has_a_floor(modules):
    rooms = {room_of(module) for module in modules} - {"kdbench", "hydra_plugins"}
    assert rooms == set(FLOOR)


def test_no_arrow_runs_up(imports):
    assert upward(imports, FLOOR) == []


def test_no_file_is_in_a_circle(imports):
    assert circle(imports) is None


def test_no_circle_between_rooms(imports):
    rooms = defaultdict(set)
    for module, others in imports.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert circle(rooms) is None


def test_no_room_is_too_large(modules):
    lines = Counter()
    for module, path in modules.items():
        lines[room_of(module)] += len(path.read_text().splitlines())
    (largest, count), *_ = lines.most_common(1)
    assert count <= LARGEST * lines.total(), f"{largest} has {count} of {lines.total()} lines"


@pytest.mark.parametrize(
    "line",
    [
        "from kdbench.upper import b",
        "import kdbench.upper.b",
        "def f():\n    from kdbench.upper.b import X",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdbench.upper.b import X",
        "from importlib import import_module\nimport_module('kdbench.upper.b')",
    ],
)
def test_an_import_that_should_not_be_is_found(tmp_path, line):
    for room, text in (("lower/a", line), ("upper/b", "from kdbench.lower import a")):
        path = tmp_path / "kdbench" / f"{room}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    imports = find_imports(find_modules(tmp_path))
    assert upward(imports, {"lower": 1, "upper": 2}) == ["kdbench.lower.a imports kdbench.upper.b"]
    assert set(circle(imports)) == {"kdbench.lower.a", "kdbench.upper.b"}


def test_a_test_file_has_the_stem_of_its_module(modules):
    """All but those of ``contracts/``, which look at several modules at once."""
    stems = {name.partition(".")[2].replace(".", "/") for name in modules}
    strays = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for place in [path.relative_to(ROOT / "tests").parent]
        if place.parts[:1] not in (("contracts",), ("scripts",))
        if (place / path.stem.removeprefix("test_")).as_posix() not in stems
    ]
    assert strays == []
