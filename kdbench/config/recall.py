"""Restores the config of an ended run from its record, which holds what determined the result.

Paths of data, teachers and caches differ between machines, so the record leaves them out. They come
from ``.hydra/config.yaml`` beside the record, else from ``conf/``, and from overrides.

A run may come from an untrusted source, so both files are treated as data: only interpolations
within the config are resolved, and only the parts of a run may be named as code
(``config/targets.py``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import find_interpolations, refuse_interpolation
from kdbench.config.compose import CONF, compose_config, restore_config
from kdbench.config.identity import VOLATILE, resolve_config
from kdbench.config.names import is_name
from kdbench.config.stable import current_targets
from kdbench.config.targets import forbidden_targets, iter_targets
from kdbench.errors import CheckpointError, ConfigError, first_line
from kdbench.records.collect import RunFolder
from kdbench.records.record import FILE, RunRecord, read_record
from kdbench.words import did_you_mean

# What may be overridden: paths and execution settings, nothing that would make it another run.
FREE = ("paths", *(key for key in VOLATILE if "." in key), "teacher.weights", "student.weights")

# Fields of a record that become part of a path or of a config.
_NAMES = ("dataset", "pair", "teacher", "student", "method", "temperature", "objective")
_TEXTS = (*_NAMES, "protocol", "precision", "device")

_REFERENCE = re.compile(r"\$\{[.\w]+(?:\[\w+\])*\}")  # to another key only
_RETIRED = ("published",)  # former keys that did not affect results
_LONGEST = 1_000_000  # bytes; a config has a few thousand


def open_run(folder: Path) -> RunFolder:
    """The run of a folder.

    Raises:
        CheckpointError: its record is missing or damaged.
        ConfigError: its record names code that is not allowed.
    """
    try:
        record = read_record(folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {FILE}: the run has not ended, or this is not a run folder; give one "
            f"like outputs/runs/<dataset>/<pair>/<method>/seed0-..."
        ) from error
    record = _bring_up_to_date(record)
    problems = list(_find_code(record))
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"{folder / FILE} is not as kdbench writes it; rejected:\n{listed}")
    return RunFolder(folder, record)


def _bring_up_to_date(record: RunRecord) -> RunRecord:
    """The record with the current paths of kdbench's classes."""
    config, teacher = current_targets(record.config), current_targets(record.teacher_config)
    return replace(record, config=config, teacher_config=teacher)


def _find_code(record: RunRecord) -> Iterator[str]:
    """Anything in a record that is not plain data or points outside the run's folder."""
    config = {"config": record.config, "teacher_config": record.teacher_config}
    yield from forbidden_targets(config)
    for path, node in iter_targets(config):
        if "_args_" in node:
            yield f"{path}._args_: positional arguments are not checked; use keywords"
    texts = {name: getattr(record, name) for name in _TEXTS}
    for found in find_interpolations({**config, **texts}):
        yield refuse_interpolation(*found)
    names = {name: texts[name] for name in _NAMES}
    dataset, student = record.config.get("dataset"), record.config.get("student")
    names["config.dataset.name"] = dataset.get("name") if isinstance(dataset, dict) else dataset
    names["config.student.arch"] = student.get("arch") if isinstance(student, dict) else student
    for key, name in names.items():
        if not is_name(name):
            yield f"{key}={name!r:.60} is not a name"


def recall_config(run: RunFolder, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a run, ready to run on this machine.

    Args:
        run: an ended run.
        overrides: KEY=VALUE of the keys ``FREE``, such as ``paths.data=DIR``.

    Raises:
        ConfigError: an override of any other key, or of one that does not exist.
        CheckpointError: the location of the teacher's weights is unknown.
    """
    record = run.record
    complete = _complete(run)
    _require_plain(complete, overrides, run.folder)
    cfg = OmegaConf.create(complete)
    _check(overrides, cfg)
    cfg.merge_with_dotlist(list(overrides))
    if OmegaConf.is_missing(cfg.teacher, "weights"):
        raise CheckpointError(
            f"{run.folder / FILE} does not say where the weights of the teacher {record.teacher} "
            f"were (digest {record.teacher_digest}); give teacher.weights=FILE"
        )
    return restore_config(resolve_config(cfg))


def _complete(run: RunFolder) -> dict[str, Any]:
    """A complete, unresolved config: the record, with defaults for what it leaves out."""
    record = run.record
    cfg, found = _standard(record), _read_saved(run.folder / ".hydra" / "config.yaml")
    found = {**found, "teacher": record.teacher_config or found.get("teacher", {})}
    # Sections with fixed keys: keys newer than the record get their default.
    for name in ("run", "speed", "paths", "teacher"):
        found[name] = {**cfg[name], **found.get(name, {})}
    cfg |= {name: section for name, section in found.items() if name not in _RETIRED}
    for name, section in record.config.items():
        partial = name in ("dataset", "run")  # records omit keys that do not affect the result
        cfg[name] = {**cfg[name], **_without_volatile(name, section)} if partial else section
    if "download" in cfg["dataset"]:
        cfg["dataset"]["download"] = False  # only the user may enable it
    return {**cfg, "pair": record.pair}


def _without_volatile(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if f"{name}.{key}" not in VOLATILE}


def _read_saved(path: Path) -> dict[str, Any]:
    """The config that Hydra saved beside a record, unresolved; empty if there is none.

    Raises:
        ConfigError: it is not YAML of plain values.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_bytes()[: _LONGEST + 1].decode()
        if len(text) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST:,} bytes")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it has an alias, which kdbench never writes")
        found = OmegaConf.create(text)
        if not isinstance(found, DictConfig):
            raise ValueError("not a mapping")
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{path} cannot be read ({reason}); remove it to use the default paths, or those "
            f"that you pass (paths.data=DIR ...)"
        ) from error
    return cast(dict[str, Any], current_targets(_plain(found)))


def _require_plain(complete: Mapping[str, Any], overrides: Sequence[str], folder: Path) -> None:
    """Rejects interpolations that leave the config, unless they are overridden."""
    given = {override.partition("=")[0] for override in overrides}
    for path, text in find_interpolations(complete):
        if path not in given and "${" in _REFERENCE.sub("", text):
            raise ConfigError(
                f"{folder}: {refuse_interpolation(path, text)}, such as {path}=VALUE after the "
                f"folder"
            )


def _standard(record: RunRecord) -> dict[str, Any]:
    """The config of ``conf/`` for the dataset and the teacher of a record."""
    name = record.config["dataset"]["name"]
    is_ours = (CONF / "dataset" / f"{name}.yaml").is_file()
    cfg = _plain(compose_config([f"dataset={name}"] if is_ours else []))
    if record.teacher is not None:
        cfg["teacher"]["weights"] = "???"
        cfg["teacher"]["model"]["arch"] = record.teacher
    return cfg


def _check(overrides: Sequence[str], cfg: DictConfig) -> None:
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not KEY=VALUE; allowed are {', '.join(FREE)}")
        if not value.strip():
            raise ConfigError(f"{override} has no value; is a shell variable unset?")
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise ConfigError(
                f"{override}: {key} determined the result of the run and cannot be changed here; "
                f"allowed are {', '.join(FREE)}"
            )
        parent, _, leaf = key.rpartition(".")
        # Not `leaf in section`, which is False for a key whose value is missing.
        known = list(map(str, OmegaConf.select(cfg, parent) if parent else cfg))
        if leaf not in known:
            siblings = [f"{parent}.{name}" for name in known]
            raise ConfigError(f"{key} is not a key{did_you_mean(key, siblings, 2)}")


def _plain(cfg: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
