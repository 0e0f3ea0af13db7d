"""Notices an objective that should learn and does not: a loop of one's own is easily incomplete."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.temperature.part import Part

CALLS = 50  # training calls after which a look is taken; a gradient may be accumulated for some


class _Seen(NamedTuple):
    parameter: Tensor
    version: int
    value: Tensor


class LearningWatch:
    """Warns once, after ``CALLS`` training calls, of parameters that have not moved until then.

    A parameter that an optimizer steps gets a new version even where its value stays; the values
    are compared once, for optimizers that write past the version counter.
    """

    def __init__(self) -> None:
        self.calls = self.observed = 0
        self._seen: list[_Seen] = []

    def called(self, parts: Sequence[Part]) -> None:
        """A training batch has been asked for; only the first ``CALLS`` are counted."""
        if self.calls >= CALLS or torch.compiler.is_compiling():
            return
        if self.calls == 0:
            self._seen = [
                _Seen(parameter, parameter._version, parameter.detach().clone())
                for part in parts
                if not part.trains_itself
                for parameter in part.own_parameters()
            ]
        self.calls += 1
        if self.calls == CALLS:
            self._judge(parts)
            self._seen = []

    def _judge(self, parts: Sequence[Part]) -> None:
        if self._seen and not any(map(_has_moved, self._seen)):
            self._warn(
                "its parameters have not changed. Give objective.param_groups() to the optimizer: "
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


def _has_moved(seen: _Seen) -> bool:
    moved = seen.parameter._version != seen.version
    return moved or not torch.equal(seen.parameter.detach(), seen.value.to(seen.parameter.device))
