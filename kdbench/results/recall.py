"""The config of a run that has ended: from its record, which says what determined the result.

Where data, teachers and caches are, the record does not say: paths differ from machine to machine.
They come from ``.hydra/config.yaml`` beside the record, else from ``conf/``, and from overrides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from kdbench.config.check import did_you_mean
from kdbench.config.compose import CONF, compose_config, restore_config
from kdbench.config.identity import VOLATILE, resolve_config
from kdbench.errors import CheckpointError, ConfigError
from kdbench.results.collect import RunFolder
from kdbench.results.record import FILE, RunRecord, read_record

# What may be overridden: where things are and how the work is done, nothing that makes another run.
FREE = ("paths", *(key for key in VOLATILE if "." in key), "teacher.weights")


def open_run(folder: Path) -> RunFolder:
    """The run of a folder.

    Raises:
        CheckpointError: it has no record, or a damaged one.
    """
    try:
        return RunFolder(folder, read_record(folder))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {FILE}: either no run has ended there, or it is not the folder of a "
            f"run; give one like outputs/runs/<dataset>/<pair>/<method>/seed0-..."
        ) from error


def recall_config(run: RunFolder, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a run, as it can be carried out here and now.

    Args:
        run: that has ended.
        overrides: KEY=VALUE of the keys ``FREE``, such as ``paths.data=DIR``.

    Raises:
        ConfigError: an override of another key, or of one that does not exist.
        CheckpointError: nothing says where the teacher's weights are.
    """
    record = run.record
    cfg = OmegaConf.create(_complete(run))
    _check(overrides, cfg)
    cfg.merge_with_dotlist(list(overrides))
    if OmegaConf.is_missing(cfg.teacher, "weights"):
        raise CheckpointError(
            f"{run.folder / FILE} does not say where the weights of the teacher {record.teacher} "
            f"were (digest {record.teacher_digest}); give teacher.weights=FILE"
        )
    return restore_config(resolve_config(cfg))


def _complete(run: RunFolder) -> dict[str, Any]:
    """A whole config, unresolved: what the record says, surrounded by what it does not say."""
    record = run.record
    cfg, saved = _standard(record), run.folder / ".hydra" / "config.yaml"
    found = _plain(OmegaConf.load(saved)) if saved.is_file() else {}
    found = {**found, "teacher": record.teacher_config or found.get("teacher", {})}
    # Sections with fixed keys: what an older version did not know yet is as it is by default.
    for name in ("run", "speed", "paths", "teacher"):
        found[name] = {**cfg[name], **found.get(name, {})}
    cfg |= found
    for name, section in record.config.items():
        partial = name in ("dataset", "run")  # the record leaves out what changes no result
        cfg[name] = {**cfg[name], **section} if partial else section
    return {**cfg, "pair": record.pair}


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
        key, equals, _ = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not KEY=VALUE; allowed are {', '.join(FREE)}")
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise ConfigError(
                f"{override}: {key} is part of what the run was and cannot be changed here; "
                f"allowed are {', '.join(FREE)}"
            )
        parent, _, leaf = key.rpartition(".")
        # Not `leaf in section`: that overlooks a key whose value is still missing.
        known = list(map(str, OmegaConf.select(cfg, parent) if parent else cfg))
        if leaf not in known:
            siblings = [f"{parent}.{name}" for name in known]
            raise ConfigError(f"{key} is not a key{did_you_mean(key, siblings, 2)}")


def _plain(cfg: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
