"""The only place that turns configuration into objects."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kdbench.config.targets import forbidden_targets
from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from kdbench.objective.objective import Objective


def build(node: DictConfig, **runtime: Any) -> Any:
    """Instantiates a node with a ``_target_``.

    Args:
        node: part of the composed config; interpolations are resolved.
        runtime: arguments that only exist at run time, such as parameters to optimise.

    Raises:
        ConfigError: a ``_target_`` outside the allow-list, or arguments that its owner refuses.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    problems = forbidden_targets(plain)
    if problems:
        raise ConfigError("; ".join(problems))
    return instantiate(OmegaConf.create(plain), _convert_="all", **runtime)


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


def load_objective(method: str, overrides: Sequence[str] = ()) -> "Objective":
    """The objective of a published method, for use in any training loop.

    Args:
        method: a name in ``conf/method``, such as "kd".
        overrides: as on the command line, such as ["temperature.tau=2"].

    Returns:
        Call ``from_logits(teacher_logits, student_logits, targets, progress)`` on it; parameters
        of a learned temperature are in ``param_groups()``.

    Raises:
        ConfigError: unknown method or key, or a value that is not allowed.
    """
    from kdbench.config.overrides import compose_checked

    return build_objective(compose_checked([f"method={method}", *overrides]))
