"""The only place that turns configuration into objects."""

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
        node: part of the composed config, whose interpolations are resolved; or plain data, such as
            a part of a record, in which nothing is.
        runtime: arguments that only exist at run time, such as parameters to optimise.

    Raises:
        ConfigError: a ``_target_`` outside the allow-list, an interpolation in plain data, or
            arguments that its owner refuses.
    """
    plain: Any = (
        OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    )
    if plain.get("weights", "") is None:  # as if it did not stand there: not every network has it
        del plain["weights"]
    problems = forbidden_targets(plain)
    # `instantiate` would resolve what an escaped interpolation leaves, once more.
    problems += [refuse_interpolation(*found) for found in find_interpolations(plain)]
    if problems:
        raise ConfigError("; ".join(problems))
    for _, named in iter_targets(plain):
        if "name" in named and is_strategy(find_target(named["_target_"])):
            del named["name"]  # a label, no argument
    return instantiate(OmegaConf.create(plain), _convert_="all", **runtime)


def find_interpolations(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of all in plain data, keys too, that OmegaConf would replace by something."""
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
    """The sentence about one of them."""
    return (
        f"{path}={text!r} is not a plain value: an interpolation could read files or the "
        f"environment; write what it stands for"
    )


def build_objective(cfg: DictConfig) -> "Objective":
    """The objective with the strategy of the ``temperature`` group, if anything is distilled."""
    # Not even built without a teacher: the run has the same key whatever the strategy, so it must
    # not find its random numbers used up.
    strategy = build(cfg.temperature) if len(cfg.objective.terms) else None
    return build(cfg.objective, temperature=strategy)


def build_optimizer(node: DictConfig, groups: list[dict]) -> "Optimizer":
    """The optimizer of an ``optim`` section over the given parameter groups."""
    factory: Callable = build(node.optimizer)
    return factory(groups)
