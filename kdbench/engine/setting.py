"""Which setting a run has: a published one, its method's default, or a modified one.

The setting of a cell is what ``dataset=... teacher=... student=... method=...`` alone composes to.
``conf/published/METHOD.yaml`` lists the cells whose setting was published.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.compose import CONF, compose_config, network_choice, pair_name
from kdbench.config.identity import AnyConfig, needs_teacher, resolve_config, views_of
from kdbench.config.stage import AUTO
from kdbench.config.tuned import PairSetting, find_pair, read_settings
from kdbench.records.record import CHANGED, DEFAULT, PUBLISHED, PUBLISHED_DEFAULT

# The keys that make up a setting; the rest is identity, paths and speed.
_SECTIONS = ("dataset", "student", "optim", "objective", "plugin")
_OF_TEACHER = ("temperature",)
_OF_RUN = ("epochs", "protocol")
_LEFT_OUT = {
    *("dataset.root", "dataset.download", "dataset.workers", "dataset.eval_batch_size"),
    *("dataset.val_fraction", "optim.optimizer.fused", "teacher.optim.optimizer.fused"),
    "temperature.name",
}
# conf/method has constants for CIFAR-100; using them on this dataset is a warning.
_FAR = "imagenet"

Change = list[Any]  # the cell's value, the run's value


class Setting(NamedTuple):
    """The setting of a run compared with that of its cell.

    Attributes:
        kind: PUBLISHED (for this pair), PUBLISHED_DEFAULT (the pair was published with the
            method's default values), CHANGED (a published setting with some keys changed) or
            DEFAULT (no published setting for this cell; the method's default is used).
        differs: key -> the cell's value, the run's value, for keys that differ.
        source: of the published setting; for DEFAULT, why the pair has its own values, if any.
        is_borrowed: whether constants for CIFAR-100 are used on ImageNet.
    """

    kind: str
    differs: dict[str, Change]
    source: str | None = None
    is_borrowed: bool = False

    def facts(self) -> dict[str, Any]:
        """The record's fields."""
        source = None if self.kind == DEFAULT else self.source
        return {
            "setting": self.kind,
            "setting_differs": self.differs,
            "setting_source": source,
        }

    def describe(self, cfg: AnyConfig) -> str:
        """One sentence for the log."""
        cell = f"{cfg['method']} on {cfg['dataset']['name']}, {cfg['pair']}"
        changes = "; ".join(_list_changes(self.differs))
        if self.kind == CHANGED:
            return f"not the published setting of {cell}: {changes}"
        if self.kind == PUBLISHED:
            return f"the published setting of {cell} ({self.source})"
        if self.kind == PUBLISHED_DEFAULT:
            return f"the published setting of {cell}, the method's default ({self.source})"
        text = f"no published setting for {cell}; using "
        text += f"kdbench's own ({self.source})" if self.source else "the method's default"
        if self.is_borrowed:
            text += (
                ", with constants for CIFAR-100: set objective.*, temperature.* and optim.* for "
                "this dataset, or interpret the result with care"
            )
        return f"{text}; except {changes}" if changes else text


def _list_changes(differs: Mapping[str, Change]) -> Iterator[str]:
    """One text per change; a part of another class is named as a whole, without its values."""
    parts = [key.removesuffix("._target_") for key in differs if key.endswith("._target_")]
    for key, (usual, own) in differs.items():
        part = next((part for part in parts if key.startswith(f"{part}.")), None)
        if part is None:
            yield f"{key}={own} ({usual})"
        elif key == f"{part}._target_":
            names = [str(target).rsplit(".", 1)[-1] for target in (own, usual)]
            yield "{}={} ({})".format(part, *names)


def find_setting(cfg: AnyConfig) -> Setting:
    """Compares a run with the setting of its dataset, teacher, student and method.

    Args:
        cfg: composed, or resolved to plain containers.
    """
    plain = resolve_config(cfg)
    arches = plain["teacher"]["model"]["arch"], plain["student"]["arch"]
    try:
        usual = _usual(plain["dataset"]["name"], *arches, plain["method"])
    except (HydraException, OmegaConfBaseException):
        return Setting(DEFAULT, {})  # the dataset, a network or the method is not in conf/
    trained = plain["teacher"]["weights"] == AUTO  # from a file, its training settings are moot
    own, expected = dict(_choices(plain, trained)), dict(_choices(usual, trained))
    differs = {
        key: [expected.get(key), own.get(key)]
        for key in sorted(own.keys() | expected.keys())
        if own.get(key) != expected.get(key)
    }
    found = _published(usual)
    if found is not None:
        kind = PUBLISHED if found.values else PUBLISHED_DEFAULT
        return Setting(CHANGED if differs else kind, differs, found.source)
    dataset = usual["dataset"]["name"]
    ours = find_pair(CONF, usual["method"], dataset, usual["pair"])
    source = ours.source if ours and not ours.is_published else None
    return Setting(DEFAULT, differs, source, dataset == _FAR and ours is None)


def _published(plain: Mapping[str, Any]) -> PairSetting | None:
    """The published setting of a cell; without distillation, under any teacher."""
    listed = read_settings(CONF, plain["method"]).get(plain["dataset"]["name"], {})
    pairs = {pair: setting for pair, setting in listed.items() if setting.is_published}
    if needs_teacher(plain):  # also one that is the end of a chain
        return pairs.get(_direct_pair(plain))
    if plain["pair"] in pairs:
        return pairs[plain["pair"]]
    student = plain["pair"].removeprefix(_teacher_part(plain))
    return next((setting for pair, setting in pairs.items() if pair.endswith(student)), None)


def _direct_pair(plain: Mapping[str, Any]) -> str:
    """The pair of the student and its own teacher, however that was trained."""
    arches = plain["teacher"]["model"]["arch"], plain["student"]["arch"]
    return pair_name(*arches, plain["dataset"]["name"])


def _teacher_part(plain: Mapping[str, Any]) -> str:
    """The teacher's part of the pair: "resnet56" of "resnet56_resnet20"."""
    pair, student = plain["pair"], plain["student"]["arch"].split(":")[-1].removesuffix("_100")
    return str(pair.removesuffix(f"_{student}"))


@lru_cache
def _usual(dataset: str, teacher: str, student: str, method: str) -> dict[str, Any]:
    """The resolved config that the four choices compose to."""
    chosen = [f"dataset={dataset}"]
    chosen += [*network_choice("teacher", teacher), *network_choice("student", student)]
    return resolve_config(compose_config([*chosen, f"method={method}"]))


def _choices(plain: Mapping[str, Any], trained: bool) -> Iterator[tuple[str, Any]]:
    """Path and value of each key that is part of a setting."""
    teacher = plain["teacher"]
    parts = {name: dict(plain[name]) for name in _SECTIONS}
    read = views_of(plain["objective"])
    views = parts["dataset"].get("views", {})
    parts["dataset"]["views"] = {name: views[name] for name in views if name in read}
    parts["run"] = {name: plain["run"][name] for name in _OF_RUN}
    if needs_teacher(plain):
        parts |= {name: plain[name] for name in _OF_TEACHER}
        if trained:
            parts["teacher"] = {
                name: teacher[name] for name in ("model", "optim", "epochs", "recipe")
            }
    found = dict(leaves(parts))
    for section in ("optim", "teacher.optim"):  # duplicates of one value
        if found.get(f"{section}.optimizer.lr") == found.get(f"{section}.lr"):
            found.pop(f"{section}.optimizer.lr", None)
    yield from ((path, value) for path, value in found.items() if path not in _LEFT_OUT)


def leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each leaf."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
