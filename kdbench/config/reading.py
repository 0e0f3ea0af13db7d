"""Validates untrusted YAML files, with file, line and column of each error.

PyYAML expands aliases while it builds a config, so a few lines can expand to billions of values or
contain themselves. Here a file is first parsed only, in time linear in its length.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource

from kdbench.errors import ConfigError

MAX_VALUES = 100_000  # per file, aliases counted at each use
MAX_BYTES = 4_000_000
_YAML = "tag:yaml.org,2002:"


def check_yaml(path: Path) -> None:
    """Raises ConfigError if a file is not YAML that is valid as a config."""
    text = _read(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _count(path, root, {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error


def check_files_that_hydra_reads() -> None:
    """Checks every config file that Hydra reads in this process from now on.

    For the command line, which owns its process. Covers all places in which configs are found:
    ``conf/``, ``--config-dir``, ``hydra.searchpath``.
    """
    Plugins.instance()  # registers the sources; importing the class by name yields a different one
    files = SourcesRegistry.instance().resolve("file")
    read = files.load_config
    if getattr(read, "checks", False):
        return

    def load_config(source: ConfigSource, config_path: str) -> Any:
        path = Path(source.path, source._normalize_file_name(config_path))
        if path.is_file():
            check_yaml(path)
        return read(source, config_path)

    load_config.checks = True  # type: ignore[attr-defined]
    files.load_config = load_config  # type: ignore[method-assign,assignment]


def _read(path: Path) -> str:
    try:
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise ConfigError(f"{path} has {size} bytes; a config has at most {MAX_BYTES}")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise ConfigError(
            f"{path}, line {line}, column {column}: byte 0x{error.object[error.start]:02x} is not "
            f"UTF-8; save the file in that encoding"
        ) from error


def _count(path: Path, node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """The number of values below a node after aliases are expanded.

    Args:
        path: of the file.
        node: of a graph in which an alias is the node that it refers to.
        sizes: known counts by node identity; None while a node is being counted.
    """
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise ConfigError(f"{path}{_at(node.start_mark)}: this value contains itself")
        return known
    sizes[id(node)] = None
    _refuse_tag(path, node)
    total = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(path, node)
        for key, _ in node.value:
            _refuse_tag(path, key)
        total += sum(_count(path, value, sizes) for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(path, value, sizes) for value in node.value)
    if total > MAX_VALUES:
        raise ConfigError(
            f"{path}{_at(node.start_mark)}: this expands to more than {MAX_VALUES} values, aliases "
            f"counted at each use"
        )
    sizes[id(node)] = total
    return total


def _refuse_tag(path: Path, node: yaml.Node) -> None:
    """Rejects tags such as ``!!python/object/apply:os.system``: a config is data."""
    if node.tag not in yaml.SafeLoader.yaml_constructors and node.tag != f"{_YAML}merge":
        tag = node.tag.replace(_YAML, "!!")
        raise ConfigError(
            f"{path}{_at(node.start_mark)}: the tag {tag} is not allowed in a config; to "
            f"instantiate an object write _target_: NAME"
        )


def _refuse_duplicates(path: Path, node: yaml.MappingNode) -> None:
    seen: dict[str, yaml.Mark] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise ConfigError(
                    f"{path}{_at(key.start_mark)}: duplicate key {key.value}, first defined in "
                    f"line {seen[key.value].line + 1}; keep one of them"
                )
            seen[key.value] = key.start_mark


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return _at(mark) if mark is not None else ""


def _at(mark: yaml.Mark) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}"


def _problem(error: yaml.YAMLError) -> str:
    """PyYAML's message on one line, with a hint."""
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    text = " ".join(f"{context}: {problem}".split()) if context else " ".join(problem.split())
    return f"{text}; indent with spaces, not with tabs" if "'\\t'" in text else text
