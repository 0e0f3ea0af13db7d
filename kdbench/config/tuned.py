"""Published settings of individual pairs: ``conf/published/METHOD.yaml``. Does not import torch.

A file lists blocks of pairs by dataset. The pairs of a block have one source::

    cifar100:
      - source: who published it, and where it was found
        values: {run.epochs: 120}          # keys with one value for all pairs of the block
        keys: [temperature.tau, optim.lr]  # keys with one value per pair, listed
        pairs: {vgg13_vgg8: [2.0, 0.05]}   # here; a plain list of pairs if there are no keys
        default: [resnet56_resnet20]       # pairs that were run with the method's own values

``ours`` instead of ``source`` marks an unpublished setting and gives the reason for it. A pair that
is not listed has the values of ``conf/method/METHOD.yaml``, unpublished for that pair.

Hydra reads the files through a config source (``hydra_plugins/kdbench_tuned.py``): the option
``tuned=METHOD__DATASET__PAIR`` is the entry of a pair. ``conf/train.yaml`` selects it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from kdbench.config.reading import check_yaml
from kdbench.errors import ConfigError

GROUP, FOLDER = "tuned", "published"
_WITHOUT = "without_"
_BLOCK_KEYS = {"source", "ours", "values", "keys", "pairs", "default"}

_further: list[Path] = []  # folders from the command line: see `look_in`


class PairSetting(NamedTuple):
    """The setting of a method for one pair.

    Attributes:
        values: dotted key -> value; empty if the method's own values apply.
        source: who published it; the reason for it if unpublished.
        is_published: whether it was published.
    """

    values: Mapping[str, Any]
    source: str
    is_published: bool


PairSettings = Mapping[str, Mapping[str, PairSetting]]  # dataset -> pair -> setting


def read_settings(conf: Path, method: str) -> PairSettings:
    """The settings that a config folder lists for a method; empty if it has no file for it.

    Raises:
        ConfigError: the file does not have the format described above.
    """
    path = conf / FOLDER / f"{method}.yaml"
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else {}


def find_pair(conf: Path, method: str, dataset: str, pair: str) -> PairSetting | None:
    """The setting of a pair; that of another dataset if the file does not list this one."""
    found = read_settings(conf, method)
    datasets = [found.get(dataset, {}), *found.values()]
    return next((pairs[pair] for pairs in datasets if pair in pairs), None)


def option_name(method: str, dataset: str, pair: str, without: Sequence[str] = ()) -> str:
    """The option of the group ``tuned`` with the setting of a pair.

    Args:
        method: option of its group.
        dataset: option of its group.
        pair: as in ``conf/pair``.
        without: sections to leave out, such as "temperature".
    """
    parts = [method, dataset, pair, *([_WITHOUT + "_".join(without)] if without else [])]
    return "__".join(parts)


def look_in(folders: Sequence[Path]) -> None:
    """Registers further config folders in this process, before Hydra knows about them."""
    _further[:] = folders


def add_sources(search_path: ConfigSearchPath) -> None:
    """Adds the settings of all config folders to Hydra's search path, in its order.

    Users' own settings are found in ``published/`` of any folder on the search path.
    """
    elements = search_path.get_path()
    known = [str(element.path) for element in elements]
    folders = [Path(path.removeprefix("file://")) for path in known if _is_folder(path)]
    for folder in dict.fromkeys([*folders, *_further]):
        place = f"{TunedSource.scheme()}://{folder.absolute()}"
        if (folder / FOLDER).is_dir() and place not in known:
            search_path.append("kdbench", place)


class TunedSource(ConfigSource):
    """Serves ``published/`` of a config folder to Hydra: one option of ``tuned`` per pair."""

    @staticmethod
    def scheme() -> str:
        """The URL scheme of this source in a search path."""
        return "tuned"

    def load_config(self, config_path: str) -> ConfigResult:
        """The values of an option, as a config for the root package."""
        values = self._values(config_path)
        if values is None:
            raise ConfigLoadError(f"{self.full_path()} has no setting {config_path}")
        return ConfigResult(
            config=OmegaConf.create(_nest(values)),
            path=self.full_path(),
            provider=self.provider,
            header={"package": "_global_"},
        )

    def available(self) -> bool:
        """Whether the folder exists."""
        return (Path(self.path) / FOLDER).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether a path is the group ``tuned``."""
        return config_path.rstrip("/") == GROUP

    def is_config(self, config_path: str) -> bool:
        """Whether a path is an option: a pair with values of its own."""
        return bool(self._values(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The options of the group, for completion and messages."""
        if not self.is_group(config_path):
            return [GROUP] if not config_path and results_filter != ObjectType.CONFIG else []
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(self._options())

    def _options(self) -> Iterator[str]:
        for path in (Path(self.path) / FOLDER).glob("*.yaml"):
            for dataset, pairs in read_settings(Path(self.path), path.stem).items():
                for pair, setting in pairs.items():
                    if setting.values:
                        yield option_name(path.stem, dataset, pair)

    def _values(self, config_path: str) -> Mapping[str, Any] | None:
        group, _, option = config_path.removesuffix(".yaml").partition("/")
        method, dataset, pair, *rest = [*option.split("__"), "", ""]
        if group != GROUP or not pair:
            return None
        found = find_pair(Path(self.path), method, dataset, pair)
        left_out = rest[0].removeprefix(_WITHOUT).split("_")
        return found and {
            key: value
            for key, value in found.values.items()
            if key.partition(".")[0] not in left_out
        }


def _is_folder(path: str) -> bool:
    return path.startswith("file://") or "://" not in path


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader that reads 1e-4 as a number, as OmegaConf does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789")
)


@lru_cache(maxsize=128)
def _read(path: Path, changed: int) -> PairSettings:
    """The settings of a file; cached until it changes."""
    check_yaml(path)
    found = yaml.load(path.read_text(), Loader=_Loader)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: must be a mapping of datasets to blocks of pairs")
    return {
        str(dataset): dict(
            entry
            for number, block in enumerate(_require(path, dataset, blocks, list), 1)
            for entry in _pairs_of(f"{path}, {dataset}, block {number}", block)
        )
        for dataset, blocks in found.items()
    }


def _pairs_of(where: str, block: Any) -> Iterator[tuple[str, PairSetting]]:
    block = _require(where, "it", block, dict)
    unknown = set(block) - _BLOCK_KEYS
    if unknown or ("source" in block) == ("ours" in block):
        raise ConfigError(
            f"{where}: allowed are {', '.join(sorted(_BLOCK_KEYS))}, with either source or ours; "
            f"found {', '.join(map(str, block))}"
        )
    is_published = "source" in block
    source = str(block["source" if is_published else "ours"]).strip()
    shared = _require(where, "values", block.get("values", {}), dict)
    keys = _require(where, "keys", block.get("keys", []), list)
    pairs = _require(where, "pairs", block.get("pairs", {}), dict if keys else list | dict)
    for pair in pairs:
        own = _require(where, pair, pairs[pair], list) if keys else []
        if len(own) != len(keys):
            raise ConfigError(f"{where}: {pair} has {len(own)} values for the keys {keys}")
        values = {**shared, **dict(zip(keys, own, strict=True))}
        yield str(pair), PairSetting(values, source, is_published)
    for pair in _require(where, "default", block.get("default", []), list):
        yield str(pair), PairSetting({}, source, is_published)


def _require(where: Any, name: Any, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        wanted = {list: "a list", dict: "a mapping"}.get(kind, "a list or a mapping")
        raise ConfigError(f"{where}: {name} must be {wanted}, found {value!r:.60}")
    return value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *above, leaf = key.split(".")
        node = root
        for name in above:
            node = node.setdefault(name, {})
        node[leaf] = value
    return root
