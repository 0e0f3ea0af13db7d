"""The frozen teacher, queried once per batch."""

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
from kdbench.teacher.logit_cache import LogitCache, compute_split_logits
from kdbench.teacher.memo import Memo

log = logging.getLogger(__name__)


class Query(NamedTuple):
    """What to compute for a batch.

    Attributes:
        view: name of the view.
        features: any of "features" and "preacts"; empty for logits only.
    """

    view: str = WEAK
    features: frozenset[str] = frozenset()


WEAK_LOGITS = Query()


def queries_of(objective: Objective) -> tuple[Query, ...]:
    """The queries that cover an objective's needs, one per view."""
    features = objective.needs & FEATURES
    return tuple(Query(view, features) for view in objective.views)


class Teacher(nn.Module):
    """A frozen network.

    Args:
        network: with its weights loaded.
        compute: device, precision and memory format.
        digest: SHA-256 over its sorted state dict.

    Attributes:
        memo: caches logits of numbered views; None runs the network every time.
        cache: caches logits of evaluation splits on disk; None keeps them in memory only.
    """

    def __init__(self, network: nn.Module, compute: Compute, digest: str) -> None:
        super().__init__()
        network = network.requires_grad_(False).eval()
        self.network = compute.place(compute.fold(network))
        self._original = (network,)  # in a tuple, so not a submodule: moved only for features
        self._with_features: dict[bool, nn.Module] = {}
        self.compute, self.digest = compute, digest
        self.memo: Memo | None = None
        self.cache: LogitCache | None = None
        self._split_logits: dict[str, tuple[Tensor, Tensor]] = {}
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Ignores ``mode`` and stays in evaluation mode: batch statistics must not change."""
        return super().train(False)

    # Not inference_mode: losses save the logits for backward, which inference tensors forbid.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, K] float32 logits."""
        return self.compute.forward(self.network, images)

    @torch.no_grad()
    def query(self, batch: Batch, query: Query = WEAK_LOGITS) -> NetworkOutput:
        """The output for one view of a batch; weak logits go through the memo, if there is one."""
        images = batch.images_of(query.view)
        if query.features:
            network = self._feature_network("preacts" in query.features)
            return self.compute.forward_features(network, images)
        if self.memo is None or batch.view is None or query.view != WEAK:
            return NetworkOutput(self(images))
        return NetworkOutput(self.memo.lookup(images, batch.index, batch.view, network=self))

    @property
    def original(self) -> nn.Module:
        """The network as passed in, without folding."""
        return self._original[0]

    def _feature_network(self, preacts: bool) -> nn.Module:
        if preacts not in self._with_features:
            network = self.compute.fold(WithFeatures(self.original, preacts).eval())
            self._with_features[preacts] = self.compute.place(network)
        return self._with_features[preacts]

    def memo_report(self) -> dict[str, Any] | None:
        """Logs the memo's statistics and returns them for the record; None without a memo."""
        if self.memo is None:
            return None
        log.info("%s", self.memo.summary())
        return self.memo.report()

    def split_logits(self, data: DataModule, split: str) -> tuple[Tensor, Tensor]:
        """[N, K] logits and [N] targets of a whole evaluation split, computed once."""
        compute = partial(compute_split_logits, self, data, split)
        if split not in self._split_logits:
            logits, targets = compute() if self.cache is None else self.cache.get(split, compute)
            device = self.compute.device
            self._split_logits[split] = logits.to(device), targets.to(device)
        return self._split_logits[split]


def require_accuracy(
    measured: float, expected: float | None, tolerance: float, num_classes: int, source: str
) -> None:
    """Rejects a teacher whose accuracy is too low.

    With the wrong normalization or class order a teacher runs without error but is useless.

    Args:
        measured: test accuracy measured here, percent.
        expected: percent; None if unknown.
        tolerance: percentage points.
        num_classes: chance is 100 / num_classes percent.
        source: the file, for the message.

    Raises:
        CheckpointError: accuracy is too far below the expected value, or near chance.
    """
    remedy = (
        "the normalization, class order or dataset probably differs from the teacher's training; "
        "if the accuracy is correct, set teacher.expected_top1 to it"
    )
    if expected is not None and measured < expected - tolerance:
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, expected "
            f"{expected:.2f} % (teacher.tolerance={tolerance}): {remedy}"
        )
    if expected is None and is_near_chance(measured, num_classes):
        raise CheckpointError(
            f"the teacher from {source} reaches {measured:.2f} % on the test set, chance is "
            f"{100 / num_classes:.2f} %: {remedy}"
        )
