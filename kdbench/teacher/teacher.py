"""The teacher: frozen, and asked once per batch."""

import logging
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from kdbench.data.base import Batch, DataModule
from kdbench.data.sanity import is_near_chance
from kdbench.errors import CheckpointError
from kdbench.model.compute import Compute
from kdbench.model.features import WithFeatures
from kdbench.objective.objective import Objective
from kdbench.outputs import FEATURES, WEAK, NetworkOutput
from kdbench.teacher.answers import AnswerFiles, ask_split
from kdbench.teacher.memo import Memo

log = logging.getLogger(__name__)


class Query(NamedTuple):
    """What a teacher is asked about a batch.

    Attributes:
        view: name of the view.
        features: "features" and "preacts", as far as they are needed; empty for logits alone.
    """

    view: str = WEAK
    features: frozenset[str] = frozenset()


WEAK_LOGITS = Query()


def queries_of(objective: Objective) -> tuple[Query, ...]:
    """What an objective reads of a network, one query for each view."""
    features = objective.needs & FEATURES
    return tuple(Query(view, features) for view in objective.views)


class Teacher(nn.Module):
    """A network that answers and never changes.

    Args:
        network: with its weights loaded.
        compute: device, precision and memory format.
        digest: SHA-256 over its sorted state dict.

    Attributes:
        memo: remembers answers to numbered views; None asks the network every time.
        files: keep the answers to evaluation splits; None asks the network once.
    """

    def __init__(self, network: nn.Module, compute: Compute, digest: str) -> None:
        super().__init__()
        network = network.requires_grad_(False).eval()
        self.network = compute.place(compute.fold(network))
        self._original = (network,)  # not a child: it stays where it is until features are needed
        self._with_features: dict[bool, nn.Module] = {}
        self.compute, self.digest = compute, digest
        self.memo: Memo | None = None
        self.files: AnswerFiles | None = None
        self._answers: dict[str, tuple[Tensor, Tensor]] = {}
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked: batch statistics must not move."""
        return super().train(False)

    # Not inference_mode: its tensors may not be saved for backward, and losses save the logits.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, K] float32 logits."""
        return self.compute.forward(self.network, images)

    @torch.no_grad()
    def answer(self, batch: Batch, query: Query = WEAK_LOGITS) -> NetworkOutput:
        """The output for one view of a batch; weak logits come from the memo where it has them."""
        images = batch.images_of(query.view)
        if query.features:
            network = self._show_features("preacts" in query.features)
            return self.compute.forward_features(network, images)
        if self.memo is None or batch.view is None or query.view != WEAK:
            return NetworkOutput(self(images))
        return NetworkOutput(self.memo.answer(images, batch.index, batch.view, ask=self))

    @property
    def original(self) -> nn.Module:
        """The network as it was given, nothing folded."""
        return self._original[0]

    def _show_features(self, preacts: bool) -> nn.Module:
        if preacts not in self._with_features:
            network = self.compute.fold(WithFeatures(self.original, preacts).eval())
            self._with_features[preacts] = self.compute.place(network)
        return self._with_features[preacts]

    def memo_report(self) -> dict[str, Any] | None:
        """What the memo was good for, for the record and in the log; None without one."""
        if self.memo is None:
            return None
        log.info("%s", self.memo.summary())
        return self.memo.report()

    def split_logits(self, data: DataModule, split: str) -> tuple[Tensor, Tensor]:
        """[N, K] logits and [N] targets of a whole evaluation split, computed once."""
        ask = partial(ask_split, self, data, split)
        if split not in self._answers:
            logits, targets = self.files.get(split, ask) if self.files is not None else ask()
            device = self.compute.device
            self._answers[split] = logits.to(device), targets.to(device)
        return self._answers[split]


def require_accuracy(
    measured: float, expected: float | None, tolerance: float, num_classes: int, source: str
) -> None:
    """Refuses a teacher that is not as good as it should be.

    A wrong normalisation or class order leaves a network that runs and teaches nonsense.

    Args:
        measured: test accuracy here, percent.
        expected: percent; None if nobody says.
        tolerance: percentage points.
        num_classes: chance is 100 / num_classes percent.
        source: the file, for the message.

    Raises:
        CheckpointError: too far below what is expected, or near chance.
    """
    remedy = (
        "likely causes are another normalisation, class order or dataset than the teacher was "
        "trained with; if the accuracy is right, set teacher.expected_top1 to it"
    )
    if expected is not None and measured < expected - tolerance:
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, expected are "
            f"{expected:.2f} % (teacher.tolerance={tolerance}): {remedy}"
        )
    if expected is None and is_near_chance(measured, num_classes):
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, chance is "
            f"{100 / num_classes:.2f} %: {remedy}"
        )
