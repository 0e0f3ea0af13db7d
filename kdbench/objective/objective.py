"""Objectives: weighted, named, ramped loss terms. Losses stay per sample until ``total``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.progress import START, Progress
from kdbench.temperature.base import Temperatures, TemperatureStrategy

DistillLoss = Callable[[Tensor, Tensor, Tensor, Temperatures], Tensor]
Ramp = Callable[[Progress], float]
View = Literal["weak", "strong"]


class StrongView(NamedTuple):
    """Logits [B, K] of the strongly augmented view of a batch (MLKD, CSKD)."""

    teacher_logits: Tensor
    student_logits: Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss of one batch, before any reduction.

    Attributes:
        terms: name of each term -> [B] float32, already weighted and ramped.
        temperatures: what the objective's strategy decided for this batch; None where nothing is
            distilled.
    """

    terms: Mapping[str, Tensor]
    temperatures: Temperatures | None = field(default=None)

    def total(self) -> Tensor:
        """Mean over the batch of the sum over the terms: the only reduction."""
        return torch.stack(tuple(self.terms.values())).sum(dim=0).mean()


@dataclass(frozen=True)
class Term:
    """One weighted summand of an objective.

    Attributes:
        loss: maps (teacher_logits, student_logits, targets, temperatures) to [B].
        weight: factor, >= 0.
        ramp: factor on the weight as a function of progress; None is 1 throughout.
        strategy: temperatures of this term alone; None takes the objective's.
        view: which logits it sees: those of the usual augmentation, or of the strong one.
    """

    loss: DistillLoss
    weight: float
    ramp: Ramp | None = None
    strategy: TemperatureStrategy | None = None
    view: View = "weak"

    def __post_init__(self) -> None:
        _require_weight("weight", self.weight)
        if self.view not in get_args(View):
            raise ValueError(
                f"view must be one of {', '.join(get_args(View))}, found {self.view!r}"
            )

    def weight_at(self, progress: Progress) -> float:
        """Weight at this point of training."""
        return self.weight * (self.ramp(progress) if self.ramp else 1.0)


class Objective(nn.Module):
    """Cross-entropy plus named distillation terms.

    Args:
        name: the objective's name in records and tables.
        ce_weight: weight of the cross-entropy with the labels, >= 0.
        terms: name -> Term; empty for training from scratch.
        temperature: strategy of every term that has none of its own.
        ce_ramp: factor on ``ce_weight`` as a function of progress; None is 1 throughout.
        strong_ce_weight: weight of the cross-entropy on the strong view.
        share_temperatures: whether terms on the strong view take the temperatures of the weak one.
    """

    def __init__(
        self,
        name: str,
        ce_weight: float,
        terms: Mapping[str, Term],
        temperature: TemperatureStrategy | None,
        ce_ramp: Ramp | None = None,
        strong_ce_weight: float = 0.0,
        share_temperatures: bool = False,
    ) -> None:
        super().__init__()
        _require_weight("ce_weight", ce_weight)
        _require_weight("strong_ce_weight", strong_ce_weight)
        if ce_weight == 0 and not any(term.weight for term in terms.values()):
            raise ValueError(
                f"nothing to optimise: ce_weight is 0 and so is the weight of every term "
                f"({', '.join(terms) or 'there are none'}); give one of them a weight > 0"
            )
        if temperature is None and any(term.strategy is None for term in terms.values()):
            raise ValueError(f"terms {', '.join(terms)} need a temperature strategy")
        self.name, self.ce_weight, self.ce_ramp = name, ce_weight, ce_ramp
        self.strong_ce_weight, self.share_temperatures = strong_ce_weight, share_temperatures
        self.terms = dict(terms)
        self.temperature = temperature
        # Registered by term, so that state and device moves reach them.
        self.term_strategies = nn.ModuleDict(
            {name: term.strategy for name, term in terms.items() if term.strategy is not None}
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return len(self.terms) > 0

    @property
    def needs_strong_view(self) -> bool:
        """Whether batches need a second, strongly augmented view."""
        return self.strong_ce_weight > 0 or any(t.view == "strong" for t in self.terms.values())

    @property
    def strategies(self) -> list[TemperatureStrategy]:
        """The objective's strategy and those of single terms."""
        candidates = [self.temperature, *(term.strategy for term in self.terms.values())]
        return [strategy for strategy in candidates if strategy is not None]

    def param_groups(self) -> list[dict]:
        """Optimizer groups of all strategies that learn."""
        return [group for strategy in self.strategies for group in strategy.param_groups()]

    def observe(self, student_logits: Tensor, targets: Tensor, progress: Progress) -> None:
        """Feedback after the optimizer step, for strategies that learn from it."""
        for strategy in self.strategies:
            strategy.observe(student_logits, targets, progress)

    def from_logits(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress | None = None,
        strong: StrongView | None = None,
    ) -> LossTerms:
        """Losses of one batch; usable in any training loop.

        Args:
            teacher_logits: [B, K]; None only for an objective without terms.
            student_logits: [B, K].
            targets: [B] int64.
            progress: position in training; None stands for the first step, which is right for
                objectives without ramps and strategies without schedules.
            strong: logits of the strongly augmented view, for objectives that need it.
        """
        progress = progress or START
        if self.needs_strong_view and strong is None:
            raise ValueError(f"objective {self.name!r} needs the logits of a strong view")
        student_logits = _widen(student_logits)
        ce_weight = self.ce_weight * (self.ce_ramp(progress) if self.ce_ramp else 1.0)
        losses = {"ce": ce_weight * F.cross_entropy(student_logits, targets, reduction="none")}
        if self.strong_ce_weight and strong is not None:
            ce = F.cross_entropy(_widen(strong.student_logits), targets, reduction="none")
            losses["ce_strong"] = self.strong_ce_weight * ce
        if not self.needs_teacher:
            return LossTerms(losses)
        if teacher_logits is None:
            raise ValueError(f"objective {self.name!r} needs teacher_logits, found None")
        views = {"weak": _prepare(teacher_logits, student_logits, targets)}
        if strong is not None:
            views["strong"] = _prepare(*strong, targets)
        shared = self._shared_temperatures(views, progress)
        for name, term in self.terms.items():
            logits = views[term.view]
            own = term.strategy(*logits, progress) if term.strategy else shared[term.view]
            losses[name] = term.weight_at(progress) * term.loss(*logits, own)
        return LossTerms(losses, shared.get("weak"))

    def _shared_temperatures(
        self, views: Mapping[str, tuple[Tensor, Tensor, Tensor]], progress: Progress
    ) -> dict[str, Temperatures]:
        """The strategy's answer for each view; the weak one last, as that is what it observes."""
        if self.temperature is None:
            return {}
        asked = {term.view for term in self.terms.values() if term.strategy is None} | {"weak"}
        if self.share_temperatures:
            weak = self.temperature(*views["weak"], progress)
            return dict.fromkeys(asked, weak)
        return {view: self.temperature(*views[view], progress) for view in sorted(asked)}

    forward = from_logits


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def _require_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, found {value}")


def _prepare(
    teacher_logits: Tensor, student_logits: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Without the check, a teacher with one output would broadcast silently into a plausible loss.
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and student_logits "
            f"{tuple(student_logits.shape)} must have the same shape [B, K]"
        )
    return _widen(teacher_logits.detach()), _widen(student_logits), targets
