"""Objectives: weighted, named, ramped loss terms. Losses stay per sample until ``total``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.objective.inputs import check_finite, check_logits, check_targets
from kdbench.objective.ranks import Ranks, count_ranks
from kdbench.objective.watch import LearningWatch
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
        self._watch, self._looks = LearningWatch(), 0
        self._ranks: Ranks | None = None
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

    @property
    def learns(self) -> bool:
        """Whether any strategy learns: through the optimizer, or by itself in ``observe``."""
        parameters = (p for strategy in self.strategies for p in strategy.parameters())
        return any(parameter.requires_grad for parameter in parameters)

    def param_groups(self) -> list[dict]:
        """Optimizer groups of all strategies that learn; empty where none does."""
        return [group for strategy in self.strategies for group in strategy.param_groups()]

    def observe(self, student_logits: Tensor, targets: Tensor, progress: Progress) -> None:
        """Feedback after the optimizer step, for strategies that learn from it.

        On several ranks (see ``distribute``), this is also where they agree.
        """
        self._watch.observed += 1
        for strategy in self.strategies:
            strategy.observe(_widen(student_logits), targets, progress)
        if self._ranks is not None and self.learns:
            self._ranks.average(self)

    def distribute(self, group: dist.ProcessGroup | None = None, average: bool = True) -> None:
        """Keeps what is learned the same on all ranks of a data-parallel loop.

        Called once on every rank, when the objective is on its device. All ranks take over what
        the first one has; from then on ``observe``, called on every rank after each optimizer step,
        replaces what was learned by its mean over the ranks. With SGD that is what averaged
        gradients give; strategies that train themselves (``meta``, ``rlkd``) learn from each rank's
        part of a batch as from a batch of its own. Nothing is needed where nothing is learned.

        Args:
            group: ranks that train one student together; None: all.
            average: False where each rank trains a student of its own, or where
                ``DistributedDataParallel(objective)`` averages the gradients.

        Raises:
            RuntimeError: ``torch.distributed`` is not initialised.
        """
        self._ranks = Ranks(group, average)
        self._ranks.broadcast(self)

    def from_logits(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress | None = None,
        strong: StrongView | None = None,
    ) -> LossTerms:
        """Losses of one batch; usable in any training loop, under autocast too.

        Args:
            teacher_logits: [B, K], finite, K >= 2, B >= 1; None only for an objective without
                terms.
            student_logits: [B, K].
            targets: [B] int64; or [B, K] probabilities, for losses that need no labels.
            progress: position in training; None stands for the first step, which is right for
                objectives without ramps and strategies without schedules.
            strong: logits of the strongly augmented view, for objectives that need it.

        Raises:
            ValueError: arguments that do not fit each other or this objective.
            NumericalError: teacher logits that are not finite.
            RuntimeError: several ranks, something that learns, and nobody who keeps it the same.
        """
        device = student_logits.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._losses(teacher_logits, student_logits, targets, progress, strong)
        return self._losses(teacher_logits, student_logits, targets, progress, strong)

    forward = from_logits

    def _losses(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress | None,
        strong: StrongView | None,
    ) -> LossTerms:
        progress = progress or START
        check_logits("student_logits", student_logits)
        needs_labels = self._needs_labels() if targets.is_floating_point() else []
        check_targets(targets, student_logits, needs_labels)
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
        if self.training and torch.is_grad_enabled() and student_logits.requires_grad:
            self._look_after_learning()
        views = {"weak": self._prepare(teacher_logits, student_logits, targets)}
        if strong is not None:
            views["strong"] = self._prepare(*strong, targets)
        shared = self._shared_temperatures(views, progress)
        for name, term in self.terms.items():
            logits = views[term.view]
            own = term.strategy(*logits, progress) if term.strategy else shared[term.view]
            losses[name] = term.weight_at(progress) * term.loss(*logits, own)
        return LossTerms(losses, shared.get("weak"))

    def _needs_labels(self) -> list[str]:
        """Names of losses and strategies that read the targets as classes."""
        losses = {
            name
            for name, term in self.terms.items()
            for loss in (term.loss, getattr(term.loss, "loss", None))
            if getattr(loss, "needs_labels", False)
        }
        modules = (module for strategy in self.strategies for module in strategy.modules())
        return sorted(losses | {type(m).__name__ for m in modules if _reads_labels(m)})

    def _look_after_learning(self) -> None:
        """Says so where something should learn, and cannot or would drift apart."""
        if not self.learns:
            return
        self._watch.called(self.strategies)
        if self._ranks is None and count_ranks() > 1:
            raise RuntimeError(
                f"objective {self.name!r} learns temperatures, and {count_ranks()} ranks would "
                f"learn different ones. Call objective.distribute() once on every rank, and "
                f"objective.observe(...) after each step; or objective.distribute(average=False) "
                f"where each rank trains its own student or DistributedDataParallel wraps the "
                f"objective"
            )

    def _prepare(
        self, teacher_logits: Tensor, student_logits: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Without it, a teacher with one output would broadcast silently into a plausible loss.
        if teacher_logits.shape != student_logits.shape:
            raise ValueError(
                f"teacher_logits {tuple(teacher_logits.shape)} and student_logits "
                f"{tuple(student_logits.shape)} must have the same shape [B, K]"
            )
        if not torch.compiler.is_compiling():
            check_finite("teacher_logits", teacher_logits, self._looks)
            self._looks += 1
        return _widen(teacher_logits.detach()), _widen(student_logits), targets

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


def _reads_labels(module: nn.Module) -> bool:
    return bool(getattr(module, "needs_labels", False))


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def _require_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, found {value}")
