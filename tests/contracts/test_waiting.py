"""No verdict depends on how fast the machine is: tests look at clocks in ``waiting.py`` only."""

import ast

import pytest

from tests.helpers.paths import ROOT

CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "sleep"}
CLOCKS |= {f"{name}_ns" for name in CLOCKS}
WAITS = {"wait", "join", "get", "communicate", "result", "acquire", "poll"}
ALLOWED = {"waiting.py"}


def is_number(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value


def find_clocks(source):
    """Lines that read a clock, sleep, or wait for so long and no longer."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "timeit"):
            yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute):
            owner = called.value.id if isinstance(called.value, ast.Name) else ""
            if (owner == "time" and called.attr in CLOCKS) or owner == "timeit":
                yield node.lineno
            if called.attr in WAITS and len(node.args) == 1 and is_number(node.args[0]):
                yield node.lineno
        if any(word.arg == "timeout" and is_number(word.value) for word in node.keywords):
            yield node.lineno


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("begin = time.monotonic()", True),
        ("time.sleep(0.3)", True),
        ("from time import sleep", True),
        ("process.join(60)", True),
        ("subprocess.run(command, timeout=60)", True),
        ("answers.get(timeout=5.0)", True),
        ("process.join()", False),
        ("', '.join(names)", False),
        ("record.get('time')", False),
        ("monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])", False),
        ("subprocess.run(command, timeout=limit)", False),
        ("lock.acquire(timeout=0)", False),
    ],
)
def test_what_counts_as_a_clock(line, found):
    assert bool(list(find_clocks(line))) == found


def test_no_test_reads_a_clock():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name not in ALLOWED
        for line in find_clocks(path.read_text())
    ]
    assert not found, "tests/helpers/waiting.py has what waits for something to happen"
