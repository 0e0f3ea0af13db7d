"""Detects an objective that should learn but does not, an easy mistake in a custom loop."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.temperature.part import Part

CALLS = 50  # training calls before the check, to allow for gradient accumulation


class _Snapshot(NamedTuple):
    parameter: Tensor
    version: int
    value: Tensor


class LearningWatch:
    """Warns once, after ``CALLS`` training calls, if no parameter has changed.

    An optimizer step increments a parameter's version even if the value stays the same; values are
    also compared, for optimizers that bypass the version counter.
    """

    def __init__(self) -> None:
        self.calls = self.observed = 0
        self._snapshots: list[_Snapshot] = []

    def count(self, parts: Sequence[Part]) -> None:
        """Counts a training call, up to ``CALLS``."""
        if self.calls >= CALLS or torch.compiler.is_compiling():
            return
        if self.calls == 0:
            self._snapshots = [
                _Snapshot(parameter, parameter._version, parameter.detach().clone())
                for part in parts
                if not part.trains_itself
                for parameter in part.own_parameters()
            ]
        self.calls += 1
        if self.calls == CALLS:
            self._check(parts)
            self._snapshots = []

    def _check(self, parts: Sequence[Part]) -> None:
        if self._snapshots and not any(map(_has_changed, self._snapshots)):
            self._warn(
                "its parameters have not changed. Pass objective.param_groups() to the optimizer: "
                "SGD([{'params': student.parameters()}, *objective.param_groups()], lr=...)"
            )
        if self.observed == 0 and any(part.trains_itself for part in parts):
            self._warn(
                "it learns from objective.observe(outputs, progress), "
                "which was never called; call it after each optimizer step"
            )

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"the objective has learned nothing in {CALLS} training batches: {reason}",
            stacklevel=5,
        )


def _has_changed(before: _Snapshot) -> bool:
    parameter = before.parameter
    if parameter._version != before.version:
        return True
    return not torch.equal(parameter.detach(), before.value.to(parameter.device))
