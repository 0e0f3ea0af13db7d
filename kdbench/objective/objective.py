"""Objectives: weighted, named, ramped loss terms. Losses are per sample until ``total``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.objective.base import DistillLoss
from kdbench.objective.inputs import (
    check_features,
    check_finite,
    check_index,
    check_logits,
    check_targets,
)
from kdbench.objective.ranks import Ranks, count_ranks
from kdbench.objective.watch import LearningWatch
from kdbench.outputs import FEATURES, WEAK, Outputs
from kdbench.progress import START, Progress
from kdbench.temperature.base import Temperatures, TemperatureStrategy
from kdbench.temperature.part import (
    Part,
    find_parts,
    full_precision,
    require_registered,
    union_of_needs,
)

Ramp = Callable[[Progress], float]


@dataclass(frozen=True)
class LossTerms:
    """The loss of one batch, before any reduction.

    Attributes:
        terms: name of each term -> [B] float32, already weighted and ramped.
        temperatures: from the objective's strategy for this batch; None without distillation.
        task: names of the terms that use the labels; all others are distillation terms.
    """

    terms: Mapping[str, Tensor]
    temperatures: Temperatures | None = field(default=None)
    task: frozenset[str] = frozenset({"ce"})

    def total(self) -> Tensor:
        """Mean over the batch of the sum over the terms: the only reduction."""
        return torch.stack(tuple(self.terms.values())).sum(dim=0).mean()


class Term(nn.Module):
    """One weighted summand of an objective.

    Args:
        loss: of each sample.
        weight: factor, >= 0.
        ramp: factor on the weight as a function of progress; None means 1.
        strategy: temperature strategy of this term; None uses the objective's.
        view: name of the view that it uses; "weak" is the usual augmentation.
    """

    def __init__(
        self,
        loss: DistillLoss,
        weight: float,
        ramp: Ramp | None = None,
        strategy: TemperatureStrategy | None = None,
        view: str = WEAK,
    ) -> None:
        super().__init__()
        _require_weight("weight", weight)
        if not isinstance(loss, DistillLoss):
            raise ValueError(
                f"loss must be a DistillLoss (kdbench.objective.base), found "
                f"{type(loss).__name__}; make it a subclass, so that its parameters are trained"
            )
        self.loss, self.weight, self.ramp = loss, weight, ramp
        self.strategy, self.view = strategy, view

    def weight_at(self, progress: Progress) -> float:
        """Weight at this point of training."""
        return self.weight * (self.ramp(progress) if self.ramp else 1.0)


class Objective(nn.Module):
    """Cross-entropy plus named distillation terms.

    Args:
        name: the objective's name in records and tables.
        ce_weight: weight of the cross-entropy with the labels, >= 0.
        terms: name -> Term; empty for training from scratch.
        temperature: strategy of every term without its own.
        ce_ramp: factor on ``ce_weight`` as a function of progress; None means 1.
        ce_views: weights of the cross-entropy on further views, by name.
        share_temperatures: whether terms on further views use the temperatures of the weak one.

    Attributes:
        needs: inputs of its parts besides logits and targets, see ``kdbench.outputs.NEEDS``.
        views: names of the views that it uses, "weak" first.
    """

    def __init__(
        self,
        name: str,
        ce_weight: float,
        terms: Mapping[str, Term],
        temperature: TemperatureStrategy | None,
        ce_ramp: Ramp | None = None,
        ce_views: Mapping[str, float] | None = None,
        share_temperatures: bool = False,
    ) -> None:
        super().__init__()
        _require_weight("ce_weight", ce_weight)
        for view, weight in (ce_views or {}).items():
            _require_weight(f"ce_views.{view}", weight)
        if ce_weight == 0 and not any(term.weight for term in terms.values()):
            raise ValueError(
                f"nothing to optimize: ce_weight and the weights of all terms "
                f"({', '.join(terms) or 'none'}) are 0; give one of them a weight > 0"
            )
        if temperature is None and any(term.strategy is None for term in terms.values()):
            raise ValueError(f"terms {', '.join(terms)} need a temperature strategy")
        self.name, self.ce_weight, self.ce_ramp = name, ce_weight, ce_ramp
        self.ce_views = {view: weight for view, weight in (ce_views or {}).items() if weight}
        self.share_temperatures = share_temperatures
        self.temperature = temperature
        self.terms = _module_dict(terms)
        self._watch, self._num_checks = LearningWatch(), 0
        self._ranks: Ranks | None = None
        waiting = {type(p).__name__ for p in find_parts(self) if type(p).adapt != Part.adapt}
        self._is_adapted, self._waiting = False, sorted(waiting)
        require_registered(self)
        self.needs = union_of_needs(find_parts(self))
        others = {*self.ce_views, *(term.view for term in terms.values())} - {WEAK}
        self.views = (WEAK, *sorted(others))

    @property
    def needs_teacher(self) -> bool:
        """Whether any term uses the teacher."""
        return len(self.terms) > 0

    @property
    def learns(self) -> bool:
        """Whether any part is trained, by the optimizer or by itself in ``observe``."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def waits_for_shapes(self) -> bool:
        """Whether ``adapt`` must be called before use."""
        return bool(self._waiting)

    def adapt(self, outputs: Outputs, num_samples: int) -> None:
        """Lets losses build modules that depend on feature shapes.

        Call it once, before passing ``param_groups()`` to the optimizer; only needed if
        ``waits_for_shapes``.

        Args:
            outputs: of an example batch; only shapes matter.
            num_samples: N, size of the full train split.

        Raises:
            RuntimeError: it was already called.
        """
        if self._is_adapted:
            raise RuntimeError("objective.adapt() was already called; call it only once")
        for part in find_parts(self):
            part.adapt(outputs, num_samples)
        self._is_adapted, self._waiting = True, []
        require_registered(self)

    def param_groups(self) -> list[dict]:
        """Optimizer groups of all trainable parameters; empty if there are none.

        Learned temperatures have no weight decay unless their YAML sets one; parameters of losses
        have the optimizer's.

        Raises:
            ValueError: a parameter is in no group, or in two.
            RuntimeError: ``adapt`` has not been called yet.
        """
        self._require_adapted()
        parts = find_parts(self)
        groups = [group for part in parts for group in part.param_groups()]
        own = {id(p) for part in parts if part.trains_itself for p in part.own_parameters()}
        grouped = [id(p) for group in groups for p in group["params"]]
        for name, parameter in self.named_parameters():
            wanted = int(parameter.requires_grad and id(parameter) not in own)
            if grouped.count(id(parameter)) != wanted:
                raise ValueError(
                    f"the parameter {name} of the objective is in {grouped.count(id(parameter))} "
                    f"optimizer groups, expected {wanted}; check param_groups() of its owner, or "
                    f"set requires_grad=False if it should not be trained"
                )
        return groups

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Feedback after the optimizer step, for parts that learn from it.

        With several ranks (see ``distribute``), it also averages parameters over ranks.

        Args:
            outputs: of the step; they are detached.
            progress: position in training, at the step.
        """
        self._watch.observed += 1
        outputs = outputs.detach().widen()
        with full_precision(outputs):
            for view, part in self._parts_by_view():
                part.observe(outputs.view(view), progress)
        if self._ranks is not None and self.learns:
            self._ranks.average(self)

    def distribute(self, group: dist.ProcessGroup | None = None, average: bool = True) -> None:
        """Keeps learned state in sync on all ranks of a data-parallel loop.

        Call it once on every rank, after moving the objective to its device. The first rank's state
        is broadcast; then ``observe``, called on every rank after each optimizer step, averages
        the state over ranks. With SGD this equals averaging gradients. Strategies that train
        themselves (``meta``, ``rlkd``) treat each rank's part of a batch as a separate batch.
        Not needed if nothing is learned.

        Args:
            group: ranks that train one student together; None means all.
            average: False if each rank trains its own student, or if
                ``DistributedDataParallel(objective)`` averages the gradients.

        Raises:
            RuntimeError: ``torch.distributed`` is not initialized.
        """
        self._ranks = Ranks(group, average)
        self._ranks.broadcast(self)

    def from_logits(
        self,
        teacher_logits: Tensor | None,
        student_logits: Tensor,
        targets: Tensor,
        progress: Progress | None = None,
    ) -> LossTerms:
        """Losses of one batch of one view, for objectives without features.

        Args:
            teacher_logits: [B, K]; None only for an objective without terms.
            student_logits: [B, K].
            targets: [B] int64; or [B, K] probabilities, for losses that do not need labels.
            progress: see ``forward``, which raises the same errors.
        """
        return self(Outputs.from_logits(teacher_logits, student_logits, targets), progress)

    def forward(self, outputs: Outputs, progress: Progress | None = None) -> LossTerms:
        """Losses of one batch; usable in any training loop, also under autocast.

        Args:
            outputs: of both networks, in any precision; finite, K >= 2, B >= 1.
            progress: position in training; None means the first step, which is sufficient for
                objectives without ramps or schedules.

        Raises:
            ValueError: the arguments do not match each other or this objective.
            NumericalError: teacher logits are not finite.
            RuntimeError: learned state would diverge between ranks (see ``distribute``), or
                ``adapt`` has not been called yet.
        """
        with full_precision(outputs):
            return self._losses(self._views_of(outputs), progress or START)

    def _losses(self, views: Mapping[str, Outputs], progress: Progress) -> LossTerms:
        ce_weight = self.ce_weight * (self.ce_ramp(progress) if self.ce_ramp else 1.0)
        losses = {"ce": ce_weight * _cross_entropy(views[WEAK])}
        for view, weight in self.ce_views.items():
            losses[f"ce_{view}"] = weight * _cross_entropy(views[view])
        task = frozenset(losses)
        if not self.needs_teacher:
            return LossTerms(losses, task=task)
        if self.training and torch.is_grad_enabled() and views[WEAK].student.logits.requires_grad:
            self._check_learning()
        shared = self._shared_temperatures(views, progress)
        for name, term in self.terms.items():
            outputs = views[term.view]
            own = term.strategy(outputs, progress) if term.strategy else shared[term.view]
            losses[name] = term.weight_at(progress) * term.loss(outputs, own)
        return LossTerms(losses, shared.get(WEAK), task)

    def _shared_temperatures(
        self, views: Mapping[str, Outputs], progress: Progress
    ) -> dict[str, Temperatures]:
        """The strategy's temperatures for each view; the weak one last, as ``observe`` sees it."""
        if self.temperature is None:
            return {}
        read = {term.view for term in self.terms.values() if term.strategy is None} - {WEAK}
        if self.share_temperatures:
            return dict.fromkeys((*read, WEAK), self.temperature(views[WEAK], progress))
        return {view: self.temperature(views[view], progress) for view in (*sorted(read), WEAK)}

    def _views_of(self, outputs: Outputs) -> dict[str, Outputs]:
        """Each view, checked, in float32 or wider, the teacher's outputs detached."""
        self._require_adapted()
        found = {}
        for name in self.views:
            if name != WEAK and name not in (outputs.views or {}):
                raise ValueError(f"objective {self.name!r} needs the outputs of a {name} view")
            view = outputs.view(name)._replace(views=None)
            self._check_view(view)
            found[name] = _freeze_teacher(view.widen())
        return found

    def _check_view(self, outputs: Outputs) -> None:
        student = outputs.student.logits
        check_logits("student_logits", student)
        readers = self._readers("labels") if outputs.targets.is_floating_point() else []
        check_targets(outputs.targets, student, readers)
        if not self.needs_teacher:
            return
        if outputs.teacher is None:
            raise ValueError(f"objective {self.name!r} needs teacher_logits, found None")
        teacher = outputs.teacher.logits
        # Otherwise a teacher with one output would silently broadcast to a plausible loss.
        if teacher.shape != student.shape:
            raise ValueError(
                f"teacher_logits {tuple(teacher.shape)} and student_logits "
                f"{tuple(student.shape)} must have the same shape [B, K]"
            )
        if self.needs & FEATURES:
            check_features(outputs, self.needs, self._readers(*FEATURES))
        if "index" in self.needs:
            check_index(outputs.index, student, self._readers("index"))
        if not torch.compiler.is_compiling():
            check_finite("teacher_logits", teacher, self._num_checks)
            self._num_checks += 1

    def _readers(self, *needs: str) -> list[str]:
        """Names of the terms and strategies that have one of these needs."""
        found = set()
        for name, term in self.terms.items():
            if any(part.needs & set(needs) for part in find_parts(term.loss)):
                found.add(name)
        strategies = (p for p in find_parts(self) if isinstance(p, TemperatureStrategy))
        return sorted(found | {type(p).__name__ for p in strategies if p.needs & set(needs)})

    def _parts_by_view(self) -> list[tuple[str, Part]]:
        """Each part once, with the view that it uses."""
        roots = [(WEAK, self.temperature)] if self.temperature is not None else []
        found: dict[Part, str] = {}
        for view, root in [*roots, *((term.view, term) for term in self.terms.values())]:
            for part in find_parts(root):
                found.setdefault(part, view)
        return [(view, part) for part, view in found.items()]

    def _require_adapted(self) -> None:
        if self._waiting:
            raise RuntimeError(
                f"{', '.join(self._waiting)} of objective {self.name!r} need the shapes of "
                f"features: call objective.adapt(outputs, num_samples) once, before "
                f"objective.param_groups()"
            )

    def _check_learning(self) -> None:
        """Warns if learned state is not trained; raises if it would diverge between ranks."""
        if not self.learns:
            return
        self._watch.count(find_parts(self))
        if self._ranks is None and count_ranks() > 1:
            raise RuntimeError(
                f"objective {self.name!r} has learned state, which would diverge on "
                f"{count_ranks()} ranks. Call objective.distribute() once on every rank and "
                f"objective.observe(...) after each step; or objective.distribute(average=False) "
                f"if each rank trains its own student or DistributedDataParallel wraps the "
                f"objective"
            )


def _cross_entropy(outputs: Outputs) -> Tensor:
    return F.cross_entropy(outputs.student.logits, outputs.targets, reduction="none")


def _freeze_teacher(outputs: Outputs) -> Outputs:
    if outputs.teacher is None:
        return outputs
    return outputs._replace(teacher=outputs.teacher.map(Tensor.detach))


def _module_dict(terms: Mapping[str, Term]) -> Mapping[str, Term]:
    try:
        return cast(Mapping[str, Term], nn.ModuleDict(terms))
    except KeyError as error:
        raise ValueError(f"invalid name of a term: {error.args[0]}; rename it") from error


def _require_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, found {value}")
