"""Mixes uncertain images with certain ones: the exploration strategy of RLKD."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.outputs import Outputs
from kdbench.plugin.base import Plugin
from kdbench.progress import Progress


class Mixing(Plugin):
    """Mixes images of high uncertainty with images of low uncertainty.

    Rule: score_i = (count_i / count_scale)^power * mean entropy of the student on sample i, updated
        in epochs divisible by ``every``; in each batch, images that rank within ``high`` become
        w * image + (1 - w) * an image that ranks within ``low``, with w falling from 1 to
        weight_end over training. The labels of the uncertain images are kept.
    Source: Zhang, Zhou, Gong, Liu, Tu, "Instance Temperature Knowledge Distillation",
        arXiv 2407.00115, released code.
    Shapes and ranges: low and high are ranges of the ranking in [0, 1], least uncertain first;
        1 >= weight_end >= 0.
    Deviations: the released code ranks the whole train set and overwrites its images; here each
        batch is ranked by the scores of all epochs so far, so that images shared with other runs
        stay unchanged. As in the released code, the teacher sees the mixed images.
    """

    def __init__(
        self,
        every: int,
        power: float,
        count_scale: float,
        low: Sequence[float],
        high: Sequence[float],
        weight_end: float,
    ) -> None:
        super().__init__()
        for name, value in (("every", every), ("count_scale", count_scale)):
            if value <= 0:
                raise ValueError(f"{name} must be > 0, found {value}")
        for name, part in (("low", low), ("high", high)):
            if not (len(part) == 2 and 0 <= part[0] < part[1] <= 1):
                raise ValueError(f"{name} must be a range 0 <= begin < end <= 1, found {part}")
        if not 0 <= weight_end <= 1:
            raise ValueError(f"weight_end must lie in [0, 1], found {weight_end}")
        self.every, self.power, self.count_scale = every, power, count_scale
        self.low, self.high, self.weight_end = tuple(low), tuple(high), weight_end
        self._ranked = -1  # epoch of the last ranking
        # [N] each; they grow with the largest sample index seen.
        self._entropy, self._count, self._score = (torch.zeros(0) for _ in range(3))

    def prepare(self, batch: Batch, progress: Progress) -> Batch:
        """Mixes the batch; before the first ranking it is unchanged."""
        if progress.epoch % self.every == 0 and progress.epoch > max(self._ranked, 0):
            self._ranked = progress.epoch
            factor = (self._count / self.count_scale) ** self.power
            self._score = factor * self._entropy / self._count.clamp(min=1)
        known = len(self._score)
        if known == 0 or int(batch.index.max()) >= known:
            return batch
        order = self._score.to(batch.index.device)[batch.index].argsort(stable=True)
        low, high = (order[_slice(part, len(order))] for part in (self.low, self.high))
        count = min(len(low), len(high))
        if count == 0:
            return batch
        weight = 1 - (1 - self.weight_end) * progress.fraction
        images = batch.images.clone()
        images[high[:count]] = (
            weight * batch.images[high[:count]] + (1 - weight) * batch.images[low[:count]]
        )
        return batch._replace(images=images, view=None)

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Accumulates the student's entropy on each sample of the batch."""
        assert outputs.index is not None
        log_q = F.log_softmax(outputs.student.logits, dim=1)
        entropy, index = -(log_q.exp() * log_q).sum(dim=1).cpu(), outputs.index.cpu()
        missing = int(index.max()) + 1 - len(self._count)
        if missing > 0:
            self._entropy, self._count = (
                F.pad(table, (0, missing)) for table in (self._entropy, self._count)
            )
        self._entropy.index_add_(0, index, entropy)
        self._count.index_add_(0, index, torch.ones_like(entropy))

    def get_extra_state(self) -> dict[str, Tensor]:
        """The accumulated tables."""
        ranked = torch.tensor(self._ranked)
        return {
            "entropy": self._entropy,
            "count": self._count,
            "score": self._score,
            "ranked": ranked,
        }

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restores the tables."""
        self._entropy, self._count = state["entropy"].clone(), state["count"].clone()
        self._score, self._ranked = state["score"].clone(), int(state["ranked"])


def _slice(part: tuple[float, ...], count: int) -> slice:
    return slice(int(part[0] * count), int(part[1] * count))
