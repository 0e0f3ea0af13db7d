"""Inspects the code behind a ``_target_`` by parsing its source instead of importing it.

Importing would load torch, and a launcher needs the key of a run long before that.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdbench.config.targets import LOAD_MODEL, OPTIMIZERS, iter_targets

_SITE = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))


def foreign_code(plain: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the source of each ``_target_`` in a config that is not part of kdbench.

    Covers the file that defines it and, recursively, the files of the same package that it imports;
    for an installed package only the file itself. Other packages and dynamic imports are not
    covered.

    Args:
        plain: resolved.

    Returns:
        Target -> SHA-256 as 64 hex digits; "unknown" if there is no source, as for compiled code.
    """
    targets = {str(node["_target_"]) for _, node in iter_targets(dict(plain))}
    known = {LOAD_MODEL, *OPTIMIZERS}
    foreign = [name for name in targets - known if not name.startswith("kdbench.")]
    return {name: _digest_of(name) for name in sorted(foreign)}


def annotations(target: str) -> dict[str, str]:
    """The arguments of a class or function, and their annotations as written.

    Empty if they cannot be read from the source.
    """
    found = find_definition(target)
    return _arguments(*found) if found is not None else {}


def find_definition(target: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines a target, and the definition; re-exports are followed.

    None if there is no such module, or no such class or function in it.
    """
    module, name = _module_of(target)
    for _ in range(8):  # a chain of re-exports
        if module is None:
            return None
        for node in _tree(module).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return module, node
        source = _imported_from(module, name)
        if source is None:
            return None
        module, name = _module_of(source)
    return None


def list_modules(places: Sequence[str]) -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of each module in these packages and modules."""
    for place in places:
        path = _locate(place)
        if path is None or path.name != "__init__.py":
            found = [place] if path is not None else []
        else:
            inner = (
                file.relative_to(path.parent).with_suffix("") for file in path.parent.rglob("*.py")
            )
            found = [".".join([place, *name.parts]) for name in inner if name.name != "__init__"]
        yield from ((module, _tree(module)) for module in sorted(found))


def _digest_of(target: str) -> str:
    found = find_definition(target)
    module = found[0] if found is not None else _module_of(target)[0]
    if module is None:
        return "unknown"
    digest = hashlib.sha256()
    for name in sorted(_closure(module)):
        path = _locate(name)
        assert path is not None
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _closure(module: str) -> set[str]:
    """A module and the modules of its package that it imports, directly or indirectly."""
    found, waiting = {module}, [module]
    while waiting:
        name = waiting.pop()
        for other in _imports(name):
            is_own = other.partition(".")[0] == module.partition(".")[0]
            if is_own and other not in found and _locate(other) is not None:
                found.add(other)
                waiting.append(other)
    return found


def _imports(module: str) -> Iterator[str]:
    path = _locate(module)
    if path is None or any(path.is_relative_to(site) for site in _SITE):
        return
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names for name in _with_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:  # `from package import module` as well as `... import name`
                yield from _with_parents(f"{base}.{alias.name}")


def _with_parents(name: str) -> list[str]:
    """Importing a.b.c runs a and a.b too."""
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The absolute name of the module in a ``from`` import."""
    if not node.level:
        return node.module or ""
    path = _locate(module)
    is_package = path is not None and path.name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _module_of(target: str) -> tuple[str | None, str]:
    """Splits a dotted name into the longest prefix that is a module, and the rest."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        if _locate(module) is not None:
            return module, ".".join(parts[length:])
    return None, target


def _imported_from(module: str, name: str) -> str | None:
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{_absolute(module, node)}.{alias.name}"
    return None


def _arguments(module: str, node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    if isinstance(node, ast.FunctionDef):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return {each.arg: ast.unparse(each.annotation) for each in every if each.annotation}
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _arguments(module, child)
    own = {
        child.target.id: ast.unparse(child.annotation)
        for child in node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    }
    inherited: dict[str, str] = {}
    for base in node.bases:
        found = find_definition(f"{module}.{ast.unparse(base)}")
        if found is not None:
            inherited = {**_arguments(*found), **inherited}
    return {**inherited, **own}


@cache
def _tree(module: str) -> ast.Module:
    path = _locate(module)
    assert path is not None
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # importing it will report the error
        return ast.Module(body=[], type_ignores=[])


@cache
def _locate(module: str) -> Path | None:
    """The file of a module; only its top-level package is searched, so nothing is imported."""
    top, *rest = module.split(".")
    if not all(part.isidentifier() for part in (top, *rest)):
        return None
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or []:
        path = Path(folder, *rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if rest and candidate.is_file():
                return candidate
    return None
