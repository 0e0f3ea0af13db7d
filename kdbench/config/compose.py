"""Composing a configuration outside the command line. Imports no torch.

Programs that import kdbench may be Hydra applications themselves. So nothing here uses what Hydra
keeps once per process (its current application, its version compatibility), or it is put back.
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
VERSION_BASE = "1.3"  # of Hydra, whose defaults ``conf/`` is written for


class ConfigSource(NamedTuple):
    """Where configs come from: ``conf/``, unless the command line says otherwise.

    Attributes:
        conf: folder of the primary config (``--config-path``).
        name: of the primary config (``--config-name``).
        folder: searched before ``conf`` (``--config-dir``); None: none is.
        searchpath: further places, as in ``hydra.searchpath``, searched after ``conf``.
    """

    conf: Path = CONF
    name: str = CONFIG_NAME
    folder: Path | None = None
    searchpath: tuple[str, ...] = ()

    def folders(self) -> list[Path]:
        """The folders that are searched beside ``conf``."""
        named = [place.removeprefix("file://") for place in self.searchpath]
        given = [self.folder] if self.folder is not None else []
        return [*given, *(Path(place) for place in named if "://" not in place)]


_SOURCE: ContextVar[ConfigSource | None] = ContextVar("source", default=None)


def current_source() -> ConfigSource:
    """The source of the ``hydra_context`` that is open; ``conf/`` where none is."""
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
    """What Hydra must know before it composes: the schema and the resolvers."""
    register()
    OmegaConf.register_new_resolver("kdbench.folder", describe_folder, replace=True)
    OmegaConf.register_new_resolver("kdbench.groups", lambda: list_groups(CONF), replace=True)


def pair_name(teacher: str, student: str, dataset: str = "imagenet") -> str:
    """The column of a teacher and a student: "resnet56_resnet20", "imagenet_resnet34_resnet18".

    It names the settings of ``conf/published`` and, of a composed config, the pair, so that one
    name has one setting however the two networks were chosen.

    Args:
        teacher: option of its group ("resnet56", "imagenet/resnet34"), or architecture
            ("resnet56", "torchvision:resnet34").
        student: the same.
        dataset: its name. Networks of a library count as ImageNet's on ImageNet alone.
    """
    if dataset == "imagenet" and all(":" in name or "/" in name for name in (teacher, student)):
        return f"imagenet_{plain_name(teacher)}_{plain_name(student)}"
    return f"{teacher}_{student}"


def plain_name(network: str) -> str:
    """A network as papers call it: "torchvision:resnet18" and "imagenet/resnet18" are resnet18.

    In the name of a chain ("torchvision:resnet50-kd-torchvision:resnet34"), each of them.
    """
    return re.sub("[^-:/]*[:/]", "", network).removesuffix("_100")  # timm's name of width 1


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
    """The option of the group ``tuned`` for what else is chosen.

    What a pair's setting says about a strategy, an objective or a plugin is about those of its
    method: it is left out where others were chosen.

    Args:
        _root_: group -> chosen option, as far as Hydra has got with the defaults list.
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


# At import, and not in prepare(): a config that was composed in one process is resolved in others.
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
        """Whoever asks next for the config of these overrides gets this one: it is composed once.

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
    """Hydra's config loader over ``conf/``; an application that is running does not notice.

    Raises:
        ConfigError: a folder that is named is not there.
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
    """The config that these overrides make.

    Args:
        loader: of ``hydra_context``.
        overrides: as on the command line.
        with_hydra: keeps Hydra's own node.

    Raises:
        HydraException: an override that cannot be read, or a choice that does not exist.
    """
    cfg = loader.load_configuration(
        loader.primary, quote_recipes(overrides), run_mode=RunMode.RUN, from_shell=False
    )
    if not with_hydra:
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


def _search_path(source: ConfigSource) -> ConfigSearchPath:
    """The places in Hydra's order: a folder comes first, a search path last."""
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
    for said, folder in places:
        if not folder.is_dir():
            raise ConfigError(f"{said}: there is no such folder; correct the path")


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed configuration of one run, as on the command line."""
    with hydra_context() as loader:
        return compose(loader, overrides)


def restore_config(plain: Mapping[str, Any]) -> DictConfig:
    """A config that was resolved to plain containers, with its types."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), plain)
    assert isinstance(cfg, DictConfig)
    return mark_resolved(cfg)


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
    """Writes ``config_files`` below the folder of a run.

    Raises:
        ResourceError: the folder cannot be made or written.
    """
    make_folder(folder)
    refuse_links(folder)
    make_folder(folder / ".hydra")
    for name, text in files.items():
        with naming(folder / ".hydra" / name):
            (folder / ".hydra" / name).write_text(text)
