"""Network outputs: the single input of strategies and losses."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:  # ``import kdbench`` must stay fast
    from torch import Tensor

WEAK = "weak"  # the view with the usual augmentation

# What a strategy or a loss may declare in ``needs``, besides logits and targets.
NEEDS: Mapping[str, str] = {
    "features": "feature maps and the pooled vector of both networks",
    "preacts": "also the maps before activation; 32x32 networks only",
    "index": "the position of each sample in the train split",
    "labels": "targets that are classes, not probabilities",
}


# The needs that require more than a network's logits.
FEATURES = frozenset({"features", "preacts"})


class Features(NamedTuple):
    """Intermediate activations of a network.

    Attributes:
        maps: f0, f1, ...: one [B, C_i, H_i, W_i] per stage, from input to output.
        pooled: [B, D], the classifier's input.
        preacts: the maps before activation, in the same order; None unless requested.
    """

    maps: tuple["Tensor", ...]
    pooled: "Tensor"
    preacts: tuple["Tensor", ...] | None = None


class NetworkOutput(NamedTuple):
    """The output of a network for a batch.

    Attributes:
        logits: [B, K].
        features: None unless needed.
    """

    logits: "Tensor"
    features: Features | None = None

    def map(self, change: Callable[["Tensor"], "Tensor"]) -> "NetworkOutput":
        """Applies a function to every tensor."""
        if self.features is None:
            return NetworkOutput(change(self.logits))
        maps, pooled, preacts = self.features
        changed = Features(
            tuple(map(change, maps)),
            change(pooled),
            None if preacts is None else tuple(map(change, preacts)),
        )
        return NetworkOutput(change(self.logits), changed)


class Outputs(NamedTuple):
    """The outputs of teacher and student for one batch.

    Attributes:
        teacher: without gradient; None without distillation.
        student: with gradient.
        targets: [B] int64 labels; or [B, K] probabilities, for losses that do not need labels.
        index: [B] int64 position of each sample in the train split; None if unknown.
        views: further views of the same samples by name, such as "strong"; None if there are none.
    """

    teacher: NetworkOutput | None
    student: NetworkOutput
    targets: "Tensor"
    index: "Tensor | None" = None  # type: ignore[assignment]  # hides tuple.index
    views: Mapping[str, "Outputs"] | None = None

    @classmethod
    def from_logits(
        cls,
        teacher_logits: "Tensor | None",
        student_logits: "Tensor",
        targets: "Tensor",
        index: "Tensor | None" = None,
    ) -> Self:
        """Outputs of one view without features.

        Args:
            teacher_logits: [B, K]; None without distillation.
            student_logits: [B, K].
            targets: [B] int64 labels or [B, K] probabilities.
            index: [B] int64 positions in the train split.
        """
        teacher = None if teacher_logits is None else NetworkOutput(teacher_logits)
        return cls(teacher, NetworkOutput(student_logits), targets, index)

    @property
    def logits(self) -> tuple["Tensor", "Tensor"]:
        """The teacher's and the student's, [B, K] each.

        Raises:
            ValueError: there is no teacher.
        """
        if self.teacher is None:
            raise ValueError("the outputs have no teacher")
        return self.teacher.logits, self.student.logits

    @property
    def features(self) -> tuple[Features, Features]:
        """The teacher's and the student's.

        Raises:
            ValueError: one of them is missing, as when no part declared the need.
        """
        teacher = None if self.teacher is None else self.teacher.features
        if teacher is None or self.student.features is None:
            raise ValueError(
                'the outputs have no features; add "features" to the needs of the part using them'
            )
        return teacher, self.student.features

    def view(self, name: str) -> "Outputs":
        """The outputs of one view.

        Raises:
            ValueError: there is no view with that name.
        """
        if name == WEAK:
            return self
        if self.views is None or name not in self.views:
            found = ", ".join((WEAK, *(self.views or ())))
            raise ValueError(f"the outputs have no view {name!r}, found {found}")
        return self.views[name]

    def detach(self) -> "Outputs":
        """Detaches all tensors."""
        return self._map(lambda tensor: tensor.detach())

    def widen(self) -> "Outputs":
        """Converts tensors narrower than float32 to float32."""
        return self if self._is_wide() else self._map(_widen)

    def _is_wide(self) -> bool:
        """Quick check that nothing is narrower than float32; may return False if unsure."""
        networks = (self.student,) if self.teacher is None else (self.teacher, self.student)
        return self.views is None and all(
            network.features is None and network.logits.dtype.itemsize >= 4 for network in networks
        )

    def _map(self, change: Callable[["Tensor"], "Tensor"]) -> "Outputs":
        views = self.views and {name: view._map(change) for name, view in self.views.items()}
        teacher = self.teacher and self.teacher.map(change)
        return Outputs(teacher, self.student.map(change), self.targets, self.index, views)


def find_unknown_needs(needs: Collection[str]) -> list[str]:
    """Those that are not in ``NEEDS``, sorted."""
    return sorted(set(needs) - NEEDS.keys())


def _widen(tensor: "Tensor") -> "Tensor":
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
