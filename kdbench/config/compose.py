"""Composing a configuration outside the command line. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kdbench.config.identity import register_resolvers
from kdbench.config.schema import Config, register

_PACKAGED = Path(__file__).parents[1] / "conf"  # where a wheel puts it
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
CONFIG_NAME = "train"


def prepare() -> None:
    """What Hydra must know before it composes: the schema and the resolvers."""
    register()
    register_resolvers()
    OmegaConf.register_new_resolver("kdbench.groups", _list_groups, replace=True)


def _list_groups() -> str:
    """The groups that people choose from, and their options; Hydra picks from "tuned" by itself."""
    groups = sorted(path for path in CONF.iterdir() if path.is_dir())
    return "\n".join(
        f"{group.name}: {', '.join(sorted(option.stem for option in group.glob('*.yaml')))}"
        for group in groups
        if group.name not in ("hydra", "tuned")
    )


@contextmanager
def hydra_context() -> Iterator[ConfigLoader]:
    """Hydra's config loader over ``conf/``; whatever Hydra was doing before goes on after."""
    prepare()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="kdbench"):
        yield GlobalHydra.instance().config_loader()


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed configuration of one run, as on the command line."""
    with hydra_context():
        return compose(CONFIG_NAME, list(overrides))


def restore_config(plain: Mapping[str, Any]) -> DictConfig:
    """A config that was resolved to plain containers, with its types."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), plain)
    assert isinstance(cfg, DictConfig)
    return cfg


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Keeps a config where Hydra keeps that of a run which it starts itself."""
    write_config(config_files(cfg), folder)


def config_files(cfg: DictConfig) -> dict[str, str]:
    """What Hydra writes about a run, by file name.

    That is ``config.yaml`` and, where the config has Hydra's node, ``hydra.yaml`` and
    ``overrides.yaml``.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    own = {key: value for key, value in plain.items() if key != "hydra"}
    files = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(own))}
    if "hydra" in cfg:
        files["hydra.yaml"] = OmegaConf.to_yaml(OmegaConf.create({"hydra": plain["hydra"]}))
        files["overrides.yaml"] = OmegaConf.to_yaml(cfg.hydra.overrides.task)
    return files


def write_config(files: Mapping[str, str], folder: Path) -> None:
    """Writes ``config_files`` below the folder of a run."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / ".hydra" / name).write_text(text)
