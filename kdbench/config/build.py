"""Instantiates objects from config; nothing else does."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kdbench.config.targets import find_target, forbidden_targets, is_strategy, iter_targets
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from kdbench.objective.objective import Objective


def build(node: DictConfig | Mapping[str, Any], **runtime: Any) -> Any:
    """Instantiates a node with a ``_target_``.

    Args:
        node: part of a composed config, whose interpolations are resolved; or plain data, such as
            a part of a record, which is taken literally.
        runtime: arguments that only exist at run time, such as parameters to optimize.

    Raises:
        ConfigError: a ``_target_`` outside the allow-list, an interpolation in plain data, or
            arguments that the target rejects.
    """
    plain: Any = (
        OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    )
    if plain.get("weights", "") is None:  # not every network has the argument
        del plain["weights"]
    problems = forbidden_targets(plain)
    # `instantiate` would expand what is left of an escaped interpolation.
    problems += [refuse_interpolation(*found) for found in find_interpolations(plain)]
    if problems:
        raise ConfigError("; ".join(problems))
    for _, named in iter_targets(plain):
        if "name" in named and is_strategy(find_target(named["_target_"])):
            del named["name"]  # a label, not an argument
    return instantiate(OmegaConf.create(plain), _convert_="all", **runtime)


def find_interpolations(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of every interpolation in plain data, in keys too."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            where = f"{path}.{key}" if path else str(key)
            if "${" in str(key):
                yield where, str(key)
            yield from find_interpolations(child, where)
    elif isinstance(node, list | tuple):
        for position, child in enumerate(node):
            yield from find_interpolations(child, f"{path}[{position}]")
    elif isinstance(node, str) and "${" in node:
        yield path, node


def refuse_interpolation(path: str, text: str) -> str:
    """The message for an interpolation that is not allowed."""
    return (
        f"{path}={text!r} is not a plain value: an interpolation could read files or the "
        f"environment; write the value itself"
    )


def build_objective(cfg: DictConfig) -> "Objective":
    """The objective with the strategy of the ``temperature`` group, if it distills."""
    # Not built without a teacher: the run key is then independent of the strategy, so the strategy
    # must not consume random numbers.
    strategy = build(cfg.temperature) if len(cfg.objective.terms) else None
    return build(cfg.objective, temperature=strategy)


def build_optimizer(node: DictConfig, groups: list[dict]) -> "Optimizer":
    """The optimizer of an ``optim`` section over the given parameter groups."""
    factory: Callable = build(node.optimizer)
    return factory(groups)
