"""Whether a run is at the setting that somebody published for its teacher, student and method.

What ``dataset=... teacher=... student=... method=...`` composes to, and nothing else, is the
setting of a cell; the method's file lists the cells for which it is a published one.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.compose import CONF, compose_config, network_choice
from kdbench.config.identity import AnyConfig, needs_teacher, resolve_config, views_of
from kdbench.config.stage import AUTO

PUBLISHED, CHANGED, DEFAULT = "published", "changed", "default"

# What makes a setting. The rest says who, where and how fast; how good the teacher is, is measured.
_SECTIONS = ("dataset", "student", "optim", "objective", "plugin")
_OF_TEACHER = ("temperature",)
_OF_RUN = ("epochs", "protocol")
_LEFT_OUT = {
    *("dataset.root", "dataset.download", "dataset.workers", "dataset.eval_batch_size"),
    *("dataset.val_fraction", "optim.optimizer.fused", "teacher.optim.optimizer.fused"),
    "temperature.name",
}
# conf/method has the constants of CIFAR-100, which are not taken to this dataset in silence.
_FAR = "imagenet"

Change = list[Any]  # the cell's value, the run's own


class Setting(NamedTuple):
    """How the setting of a run relates to that of its cell.

    Attributes:
        kind: PUBLISHED, CHANGED (a published one, of which some keys differ) or DEFAULT: nobody
            published one for this cell, and the method's own values stand in.
        differs: key -> what the cell has, what the run has, where they differ.
        is_borrowed: whether constants of CIFAR-100 stand in on ImageNet.
    """

    kind: str
    differs: dict[str, Change]
    is_borrowed: bool = False

    def describe(self, cfg: AnyConfig) -> str | None:
        """A sentence for people; None at a published setting."""
        cell = f"{cfg['method']} on {cfg['dataset']['name']}, {cfg['pair']}"
        changes = "; ".join(f"{key}={own} ({usual})" for key, (usual, own) in self.differs.items())
        if self.kind == CHANGED:
            return f"not the published setting of {cell}: {changes}"
        if self.kind != DEFAULT:
            return None
        text = f"nobody published a setting of {cell}; this is the method's own"
        if self.is_borrowed:
            text += (
                ", with constants of CIFAR-100: choose objective.*, temperature.* and optim.* for "
                "this dataset, or read the result with care"
            )
        return f"{text}; but {changes}" if changes else text


def find_setting(cfg: AnyConfig) -> Setting:
    """Compares a run with what its dataset, teacher, student and method alone compose to.

    Args:
        cfg: composed, or resolved to plain containers.
    """
    plain = resolve_config(cfg)
    arches = plain["teacher"]["model"]["arch"], plain["student"]["arch"]
    try:
        usual = _usual(plain["dataset"]["name"], *arches, plain["method"])
    except (HydraException, OmegaConfBaseException):
        return Setting(DEFAULT, {})  # of a dataset, network or method that is not in conf/
    trained = plain["teacher"]["weights"] == AUTO  # a teacher from a file has its training behind
    own, expected = dict(_choices(plain, trained)), dict(_choices(usual, trained))
    differs = {
        key: [expected.get(key), own.get(key)]
        for key in sorted(own.keys() | expected.keys())
        if own.get(key) != expected.get(key)
    }
    if not _is_published(usual):
        tuned = CONF / "tuned" / f"{usual['method']}__{usual['pair']}.yaml"
        return Setting(DEFAULT, differs, usual["dataset"]["name"] == _FAR and not tuned.is_file())
    return Setting(CHANGED if differs else PUBLISHED, differs)


def _is_published(plain: Mapping[str, Any]) -> bool:
    pairs = plain["published"].get(plain["dataset"]["name"], [])
    if needs_teacher(plain):
        return plain["pair"] in pairs
    return any(pair.endswith(plain["pair"].removeprefix(_teacher_part(plain))) for pair in pairs)


def _teacher_part(plain: Mapping[str, Any]) -> str:
    """What a student alone does not depend on: of "resnet56_resnet20", "resnet56"."""
    pair, student = plain["pair"], plain["student"]["arch"].split(":")[-1].removesuffix("_100")
    return str(pair.removesuffix(f"_{student}"))


@lru_cache
def _usual(dataset: str, teacher: str, student: str, method: str) -> dict[str, Any]:
    """What the four choices compose to, resolved."""
    chosen = [f"dataset={dataset}"]
    chosen += [*network_choice("teacher", teacher), *network_choice("student", student)]
    return resolve_config(compose_config([*chosen, f"method={method}"]))


def _choices(plain: Mapping[str, Any], trained: bool) -> Iterator[tuple[str, Any]]:
    """Path and value of everything that makes a setting."""
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
    leaves = dict(_leaves(parts))
    for section in ("optim", "teacher.optim"):  # the same value, seen twice
        if leaves.get(f"{section}.optimizer.lr") == leaves.get(f"{section}.lr"):
            leaves.pop(f"{section}.optimizer.lr", None)
    yield from ((path, value) for path, value in leaves.items() if path not in _LEFT_OUT)


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
