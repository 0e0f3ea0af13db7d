"""Composing a configuration outside the command line. Imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kdbench.config.identity import mark_resolved, register_resolvers
from kdbench.config.schema import Config, register
from kdbench.errors import ConfigError
from kdbench.files import refuse_links

_PACKAGED = Path(__file__).parents[1] / "conf"  # where a wheel puts it
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
CONFIG_NAME = "train"


class Source(NamedTuple):
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
def hydra_context(source: Source | None = None) -> Iterator[ConfigLoader]:
    """Hydra's config loader over ``conf/``; whatever Hydra was doing before goes on after.

    Raises:
        ConfigError: a folder that is named is not there.
    """
    prepare()
    source = source or Source()
    _require_folders(source)
    with initialize_config_dir(str(source.conf), version_base="1.3", job_name="kdbench"):
        loader = GlobalHydra.instance().config_loader()
        if source.folder is not None or source.searchpath:
            _extend(loader, source)
        yield loader


def _extend(loader: ConfigLoader, source: Source) -> None:
    """Puts further places where Hydra puts them: a folder first, a search path last."""
    path = loader.get_search_path()
    if source.folder is not None:
        place = f"file://{source.folder.absolute()}"
        path.prepend("command-line", place, SearchPathQuery(provider="schema"))
    schema = path.get_path().pop()  # Hydra keeps its own schema at the end
    for place in source.searchpath:
        path.append("hydra.searchpath in command-line", place)
    path.append(schema.provider, schema.path)
    loader.repository = ConfigRepository(config_search_path=path)  # type: ignore[attr-defined]


def _require_folders(source: Source) -> None:
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
    with hydra_context():
        return compose(CONFIG_NAME, list(overrides))


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
    """Writes ``config_files`` below the folder of a run."""
    refuse_links(folder)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / ".hydra" / name).write_text(text)
