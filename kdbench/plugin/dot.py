"""DOT: SGD with separate momenta for the task and the distillation loss."""

import math

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import SGD, Optimizer
from torch.optim.sgd import sgd

from kdbench.errors import ConfigError
from kdbench.objective.objective import LossTerms
from kdbench.plugin.base import Plugin


class DOT(Plugin):
    """Separate momentum buffers, with a larger momentum for distillation than for the task.

    Rule: v_ce <- (mu - delta) v_ce + g_ce + wd theta, v_kd <- (mu + delta) v_kd + g_kd,
        theta <- theta - lr (v_ce + v_kd). A parameter that only one of the two losses reaches
        has one buffer, with momentum mu and weight decay. A buffer starts as its first gradient.
        lr, mu and wd are those of the optimizer's groups. With delta = 0 this is SGD.
    Source: Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023; the authors'
        mdistiller, engine/dot.py.
    State: the buffers are the optimizer's state and are saved with it.
    Deviations: the authors leave weight decay out of the very first gradient of a parameter that
        only distillation reaches; here it is in from the start, as in SGD.

    Args:
        delta: difference of the momenta from mu; 0 <= delta < min(mu, 1 - mu).
    """

    def __init__(self, delta: float) -> None:
        super().__init__()
        if not (math.isfinite(delta) and 0 <= delta < 0.5):
            raise ValueError(f"delta must lie in [0, 0.5), found {delta}")
        self.delta = delta

    def update(self, terms: LossTerms, optimizer: Optimizer, scaler: GradScaler) -> None:
        """Differentiates twice through the student.

        Raises:
            ConfigError: the optimizer is not plain SGD, its momentum does not fit delta, the
                precision is fp16, or nothing is distilled.
        """
        self._check(terms, optimizer, scaler)
        task = {name: loss for name, loss in terms.terms.items() if name in terms.task}
        distillation = {name: loss for name, loss in terms.terms.items() if name not in terms.task}
        ce = _gradients(LossTerms(task), optimizer, keep_graph=True)
        kd = _gradients(LossTerms(distillation), optimizer, keep_graph=False)
        for group in optimizer.param_groups:
            mu, decay = group["momentum"], group["weight_decay"]
            both, ce_only, kd_only = _partition(group["params"], ce, kd)
            _descend(optimizer, group, both, ce, "ce_buffer", mu - self.delta, decay)
            _descend(optimizer, group, both, kd, "kd_buffer", mu + self.delta, 0.0)
            _descend(optimizer, group, ce_only, ce, "ce_buffer", mu, decay)
            _descend(optimizer, group, kd_only, kd, "kd_buffer", mu, decay)

    def _check(self, terms: LossTerms, optimizer: Optimizer, scaler: GradScaler) -> None:
        if type(optimizer) is not SGD:
            raise ConfigError(
                f"plugin=dot is a variant of SGD, found {type(optimizer).__name__}; use optim=sgd, "
                f"or plugin=none"
            )
        if scaler.is_enabled():
            raise ConfigError(
                "plugin=dot differentiates two losses separately, which does not support "
                "run.precision=fp16; use run.precision=bf16 or fp32"
            )
        if not terms.terms.keys() - terms.task:
            raise ConfigError(
                "plugin=dot needs a distillation term besides ce, found none in the objective; "
                "use an objective with distillation, or plugin=none"
            )
        for group in optimizer.param_groups:
            self._check_group(group)

    def _check_group(self, group: dict) -> None:
        for key in ("nesterov", "dampening", "maximize"):
            if group[key]:
                raise ConfigError(
                    f"plugin=dot is defined for plain SGD, found optim.optimizer.{key}="
                    f"{group[key]}; set it to {type(group[key])(0)}, or use plugin=none"
                )
        if not self.delta < min(group["momentum"], 1 - group["momentum"]):
            raise ConfigError(
                f"plugin.delta={self.delta} must be below the momentum and one minus the momentum, "
                f"found optim.optimizer.momentum={group['momentum']}; published values are "
                f"delta=0.075 and 0.09 with momentum=0.9"
            )


def _gradients(terms: LossTerms, optimizer: Optimizer, keep_graph: bool) -> dict[Tensor, Tensor]:
    """Parameter -> gradient of the total; only parameters that have one."""
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    found = torch.autograd.grad(terms.total(), params, retain_graph=keep_graph, allow_unused=True)
    return {p: g for p, g in zip(params, found, strict=True) if g is not None}


def _partition(
    params: list[Tensor], ce: dict[Tensor, Tensor], kd: dict[Tensor, Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters reached by both losses, by the task only, and by distillation only."""
    both = [p for p in params if p in ce and p in kd]
    ce_only = [p for p in params if p in ce and p not in kd]
    kd_only = [p for p in params if p in kd and p not in ce]
    return both, ce_only, kd_only


@torch.no_grad()
def _descend(
    optimizer: Optimizer,
    group: dict,
    params: list[Tensor],
    gradients: dict[Tensor, Tensor],
    buffer: str,
    momentum: float,
    weight_decay: float,
) -> None:
    """One SGD step with the named buffers. The step is linear, so two calls add up."""
    buffers = [optimizer.state[p].get(buffer) for p in params]
    sgd(
        params,
        [gradients[p] for p in params],
        buffers,
        lr=group["lr"],
        momentum=momentum,
        weight_decay=weight_decay,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for p, v in zip(params, buffers, strict=True):
        optimizer.state[p][buffer] = v
