"""Can two methods be told apart? Paired by seed: what two runs of one seed share does not count."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from kdbench.errors import DataError

ALPHA = 0.05
# The least two-sided p of n pairs is 2 / 2^n: 0.0625 with five, so five can never reach ALPHA.
MIN_SEEDS = 6
# Accuracies are hits over samples; what differs by less than this are equal hits, badly rounded.
_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, over the seeds that both have.

    Attributes:
        n: pairs.
        difference: mean of (this - other); None without a pair.
        interval: ends of the 95 % interval of that mean (paired t); None below two pairs.
        p: of the exact signed-rank test, two-sided; None below six pairs.
        effect: mean over standard deviation of the differences; None where they do not vary.
        larger_is_better: what the numbers mean.
        family: tests that this one was made with, itself included.
        adjusted_p: ``p`` after ``holm`` over the family; None where nothing was adjusted.
    """

    n: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    effect: float | None
    larger_is_better: bool
    family: int = 1
    adjusted_p: float | None = None

    @property
    def can_tell(self) -> bool:
        """Whether there are seeds enough for any difference to be significant."""
        return self.n >= least_seeds(self.family)

    @property
    def is_distinguishable(self) -> bool:
        """Whether the two differ by more than chance, at a level of 0.05."""
        p = self.p if self.adjusted_p is None else self.adjusted_p
        return p is not None and p < ALPHA

    @property
    def verdict(self) -> str:
        """The comparison in words."""
        if self.is_distinguishable and self.difference:
            return "better" if (self.difference > 0) == self.larger_is_better else "worse"
        return "not distinguishable" if self.can_tell else f"too few seeds (n={self.n})"


def compare_paired(
    a: Mapping[int, float], b: Mapping[int, float], *, larger_is_better: bool = True
) -> Comparison:
    """Compares two methods over the seeds that both have; seeds of one alone do not count.

    Args:
        a: seed -> value of the one.
        b: seed -> value of the other, in the same unit.
        larger_is_better: False for losses, errors, times.

    Raises:
        DataError: a value is not finite.
    """
    for seed, value in (*a.items(), *b.items()):
        if not math.isfinite(value):
            raise DataError(
                f"the value of seed {seed} is {value}, and only finite numbers can be compared; "
                f"leave that seed out"
            )
    found = np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
    n = len(found)
    spread = float(found.std(ddof=1)) if n > 1 else None
    mean = float(found.mean()) if n else None
    return Comparison(
        n=n,
        difference=mean,
        interval=_interval(mean, spread, n) if mean is not None and spread is not None else None,
        p=signed_rank_p(found) if n >= MIN_SEEDS else None,
        effect=mean / spread if mean is not None and spread and spread > 10**-_DIGITS else None,
        larger_is_better=larger_is_better,
    )


def compare_all(
    values: Mapping[str, Mapping[int, float]], other: str, *, larger_is_better: bool = True
) -> dict[str, Comparison]:
    """Compares methods with one of them, and adjusts the p-values for being several.

    Args:
        values: method -> seed -> value.
        other: the method that all others are compared with; where it is not there, n is 0.
        larger_is_better: see ``compare_paired``.
    """
    found = {
        name: compare_paired(own, values.get(other, {}), larger_is_better=larger_is_better)
        for name, own in values.items()
        if name != other
    }
    tested = {name: comparison.p for name, comparison in found.items() if comparison.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        name: replace(comparison, family=max(1, len(tested)), adjusted_p=adjusted.get(name))
        for name, comparison in found.items()
    }


def find_winner(
    values: Mapping[str, Mapping[int, float]], *, larger_is_better: bool = True
) -> str | None:
    """The method with the best mean, if it beats the second best by more than chance; else None.

    It is chosen after the fact, so its lead is adjusted for all that it was chosen from.

    Args:
        values: method -> seed -> value; each has at least one.
        larger_is_better: see ``compare_paired``.
    """
    if len(values) < 2:
        return None
    means = {name: float(np.mean(list(own.values()))) for name, own in values.items()}
    best, second, *_ = sorted(means, key=lambda name: means[name], reverse=larger_is_better)
    lag = compare_all(values, best, larger_is_better=larger_is_better)[second]
    return best if lag.verdict == "worse" else None


def signed_rank_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test: over all 2^n signs, for the ranks at hand.

    Zeros are left out, and equal sizes share their mean rank (Wilcoxon's own conventions). With
    ties the distribution is that of the shared ranks, so p is exact there too;
    ``scipy.stats.wilcoxon(method="exact")`` takes that of ranks without ties.
    """
    rounded = np.round(differences, _DIGITS)
    kept = rounded[rounded != 0]
    _, place, ties = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(ties) - ties + 1)[place]  # doubled, so that they are whole
    chances = np.ones(1)  # of each sum of the ranks with a plus
    for rank in ranks:
        chances = np.pad(chances, (0, rank)) / 2 + np.pad(chances, (rank, 0)) / 2
    plus = int(ranks[kept > 0].sum())
    least = min(plus, int(ranks.sum()) - plus)
    return min(1.0, 2 * float(chances[: least + 1].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests for being several (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def least_seeds(comparisons: int) -> int:
    """Seeds below which not even the clearest of so many comparisons can reach 0.05."""
    return next(n for n in range(MIN_SEEDS, 100) if comparisons * 2 / 2**n < ALPHA)


def _interval(mean: float, spread: float, n: int) -> tuple[float, float]:
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * spread / math.sqrt(n)
    return mean - half, mean + half
