"""Composes configs outside the command line. Does not import torch.

Programs that import kdbench may be Hydra applications themselves, so Hydra's global state (its
current application, its version compatibility) is not used here, or is restored.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from kdbench.config.canonical import mark_resolved
from kdbench.config.choices import CONF, list_groups, own_choice
from kdbench.config.schema import Config, register
from kdbench.config.syntax import quote_recipes
from kdbench.config.tuned import add_sources, option_name
from kdbench.data.folder import describe_folder
from kdbench.errors import ConfigError
from kdbench.files import make_folder, naming, refuse_links

CONFIG_NAME = "train"
VERSION_BASE = "1.3"  # Hydra version whose defaults ``conf/`` is written for


class ConfigSource(NamedTuple):
    """Where configs come from: ``conf/``, unless the command line says otherwise.

    Attributes:
        conf: folder of the primary config (``--config-path``).
        name: of the primary config (``--config-name``).
        folder: searched before ``conf`` (``--config-dir``), if any.
        searchpath: further places, as in ``hydra.searchpath``, searched after ``conf``.
    """

    conf: Path = CONF
    name: str = CONFIG_NAME
    folder: Path | None = None
    searchpath: tuple[str, ...] = ()

    def folders(self) -> list[Path]:
        """The folders that are searched besides ``conf``."""
        named = [place.removeprefix("file://") for place in self.searchpath]
        given = [self.folder] if self.folder is not None else []
        return [*given, *(Path(place) for place in named if "://" not in place)]


_SOURCE: ContextVar[ConfigSource | None] = ContextVar("source", default=None)


def current_source() -> ConfigSource:
    """The source of the active ``hydra_context``; ``conf/`` outside of one."""
    return _SOURCE.get() or ConfigSource()


@contextmanager
def use_source(source: ConfigSource) -> Iterator[None]:
    """Makes a source the current one."""
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def prepare() -> None:
    """Registers the schema and the resolvers that Hydra needs to compose."""
    register()
    OmegaConf.register_new_resolver("kdbench.folder", describe_folder, replace=True)
    OmegaConf.register_new_resolver("kdbench.groups", lambda: list_groups(CONF), replace=True)


def pair_name(teacher: str, student: str, dataset: str = "imagenet") -> str:
    """The name of a teacher and a student: "resnet56_resnet20", "imagenet_resnet34_resnet18".

    It selects the settings of ``conf/published`` and names the pair of a composed config, so they
    match however the two networks were chosen.

    Args:
        teacher: option of its group ("resnet56", "imagenet/resnet34"), or architecture
            ("resnet56", "torchvision:resnet34").
        student: the same.
        dataset: its name. Library networks get the prefix on ImageNet only.
    """
    if dataset == "imagenet" and all(":" in name or "/" in name for name in (teacher, student)):
        return f"imagenet_{plain_name(teacher)}_{plain_name(student)}"
    return f"{teacher}_{student}"


def plain_name(network: str) -> str:
    """A network's name in papers: resnet18 for "torchvision:resnet18" and "imagenet/resnet18".

    Also for each network of a chain ("torchvision:resnet50-kd-torchvision:resnet34").
    """
    return re.sub("[^-:/]*[:/]", "", network).removesuffix("_100")  # timm's suffix for width 1


def network_choice(role: str, arch: str) -> list[str]:
    """The overrides that choose a network by its architecture.

    Args:
        role: "teacher" or "student".
        arch: such as "resnet56", "torchvision:resnet34".
    """
    library = arch.partition(":")[0] if ":" in arch else None
    if library is None:
        return [f"{role}={arch}"]
    if arch in _imagenet_networks():
        return [f"{role}=imagenet/{_imagenet_networks()[arch]}"]
    return [f"{role}={library}", f"{'teacher.model' if role == 'teacher' else role}.arch={arch}"]


@lru_cache
def _imagenet_networks() -> dict[str, str]:
    """Architecture -> option, of ``conf/student/imagenet``."""
    files: Iterator[Path] = (CONF / "student" / "imagenet").glob("*.yaml")
    return {yaml.safe_load(path.read_text())["arch"]: path.stem for path in files}


def tuned_option(*, _root_: DictConfig) -> str:
    """The option of the group ``tuned`` that matches the other choices.

    A pair's settings of a strategy, an objective or a plugin are for those of its method; they are
    left out if others were chosen.

    Args:
        _root_: group -> chosen option, as far as Hydra has processed the defaults list.
    """
    method, dataset, teacher, student = (
        str(_root_.get(group)) for group in ("method", "dataset", "teacher", "student")
    )
    other = [
        group
        for group in ("temperature", "objective", "plugin")
        if own_choice(CONF, method, group) not in (None, _root_.get(group))
    ]
    return option_name(method, dataset, pair_name(teacher, student), other)


# At import, not in prepare(): a config composed in one process may be resolved in another.
OmegaConf.register_new_resolver("kdbench.pair", pair_name, replace=True)
OmegaConf.register_new_resolver("kdbench.tuned", tuned_option, replace=True)
# Budgets of methods, such as twice the epochs of the dataset's recipe:
OmegaConf.register_new_resolver("kdbench.times", operator.mul, replace=True)


class Loader(ConfigLoaderImpl):
    """Hydra's config loader over the places of a source."""

    def __init__(self, source: ConfigSource) -> None:
        super().__init__(_search_path(source))
        self.primary = source.name
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def hand_over(self, overrides: Sequence[str], cfg: DictConfig) -> None:
        """Returns this config for the next load of these overrides, so that it is composed once.

        Args:
            overrides: as on the command line.
            cfg: what ``compose`` made of them, with Hydra's node.
        """
        self._composed[tuple(overrides)] = cfg

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """See Hydra's own."""
        if config_name == self.primary and tuple(overrides) in self._composed:
            return self._composed.pop(tuple(overrides))
        return super().load_configuration(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )


@contextmanager
def hydra_context(source: ConfigSource | None = None) -> Iterator[Loader]:
    """Hydra's config loader over ``conf/``; leaves a running Hydra application untouched.

    Raises:
        ConfigError: a named folder does not exist.
    """
    prepare()
    source = source or ConfigSource()
    _require_folders(source)
    base = VersionBase.instance()
    before = base.version_base
    setbase(VERSION_BASE)
    try:
        if not OmegaConf.has_resolver("hydra"):
            setup_globals()
        with use_source(source):
            yield Loader(source)
    finally:
        base.version_base = before


def compose(loader: Loader, overrides: Sequence[str] = (), with_hydra: bool = False) -> DictConfig:
    """Composes the config for these overrides.

    Args:
        loader: of ``hydra_context``.
        overrides: as on the command line.
        with_hydra: keeps Hydra's own node.

    Raises:
        HydraException: an override cannot be parsed, or an option does not exist.
    """
    cfg = loader.load_configuration(
        loader.primary, quote_recipes(overrides), run_mode=RunMode.RUN, from_shell=False
    )
    if not with_hydra:
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


def _search_path(source: ConfigSource) -> ConfigSearchPath:
    """The search path in Hydra's order: ``--config-dir`` first, ``hydra.searchpath`` last."""
    path = create_config_search_path(str(source.conf))
    if source.folder is not None:
        place = f"file://{source.folder.absolute()}"
        path.prepend("command-line", place, SearchPathQuery(provider="schema"))
    schema = path.get_path().pop()  # Hydra keeps its own schema at the end
    for place in source.searchpath:
        path.append("hydra.searchpath in command-line", place)
    add_sources(path)
    path.append(schema.provider, schema.path)
    return path


def _require_folders(source: ConfigSource) -> None:
    options = {"--config-path": source.conf, "--config-dir": source.folder}
    places = [(f"{name}={folder}", folder) for name, folder in options.items() if folder]
    places += [
        (f"hydra.searchpath=[{place}]", Path(place.removeprefix("file://")))
        for place in source.searchpath
        if place.startswith("file://") or "://" not in place
    ]
    for option, folder in places:
        if not folder.is_dir():
            raise ConfigError(f"{option}: no such folder; correct the path")


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed configuration of one run, as on the command line."""
    with hydra_context() as loader:
        return compose(loader, overrides)


def restore_config(plain: Mapping[str, Any]) -> DictConfig:
    """A typed config from one that was resolved to plain containers."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), plain)
    assert isinstance(cfg, DictConfig)
    return mark_resolved(cfg)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Saves a config where Hydra saves that of a run."""
    write_config(config_files(cfg), folder)


def config_files(cfg: DictConfig) -> dict[str, str]:
    """The files that Hydra writes for a run: file name -> content.

    These are ``config.yaml`` and, if the config has Hydra's node, ``hydra.yaml`` and
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
    """Writes ``config_files`` below the folder of a run.

    Raises:
        ResourceError: the folder cannot be created or written.
    """
    make_folder(folder)
    refuse_links(folder)
    make_folder(folder / ".hydra")
    for name, text in files.items():
        with naming(folder / ".hydra" / name):
            (folder / ".hydra" / name).write_text(text)
