"""What is read from source, without importing it."""

import pytest

from kdbench.config import code
from kdbench.config.code import annotations, foreign_code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package of one's own; what was read of them before is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "ownpackage" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        code._tree.cache_clear()
        code._locate.cache_clear()

    write(__init__="from .parts import Loss\n")
    yield write
    write()


PARTS = """
import os
from ownpackage.helpers import half
from . import more
raise RuntimeError("imported")
class Loss:
    def __init__(self, tau: float, *, gamma: "float | None" = None): ...
"""


def digests(target="ownpackage.parts.Loss"):
    return foreign_code({"objective": {"terms": [{"_target_": target}]}})


def test_code_outside_is_known_by_its_source_and_what_it_imports(package):
    package(parts=PARTS, helpers="def half(): return 0.5\n", more="", other="a = 1\n")
    before = digests()
    assert list(before) == ["ownpackage.parts.Loss"]
    assert len(before["ownpackage.parts.Loss"]) == 64
    assert digests() == before
    package(other="a = 2\n")
    assert digests() == before
    package(helpers="def half(): return 0.25\n")
    changed = digests()
    assert changed != before
    package(parts=PARTS + "# more\n")
    assert digests() not in (before, changed)


def test_a_name_that_is_handed_on_is_followed(package):
    package(parts=PARTS, helpers="", more="")
    assert digests("ownpackage.Loss")["ownpackage.Loss"] == digests()["ownpackage.parts.Loss"]
    assert annotations("ownpackage.Loss") == {"tau": "float", "gamma": "'float | None'"}


def test_code_of_kdbench_and_torch_is_not_foreign():
    for target in ("torch.optim.SGD", "kdbench.objective.kl.KL", "kdbench.model.load.load_model"):
        assert digests(target) == {}


def test_what_has_no_source_is_reported():
    assert digests("math.sqrt") == {"math.sqrt": "unknown"}
    assert digests("no_such_package.X") == {"no_such_package.X": "unknown"}


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ("kdbench.temperature.constant.Constant", "tau", "float"),
        ("kdbench.temperature.wttm.WTTM", "exponent", "float"),  # inherited
        ("kdbench.data.fake.Fake", "val_fraction", "float"),  # a field, inherited
        ("kdbench.model.load.load_model", "num_classes", "int"),
        ("no_such_package.X", "x", None),
    ],
)
def test_types_of_arguments(target, name, expected):
    assert annotations(target).get(name) == expected
