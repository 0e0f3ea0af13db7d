"""Can two methods be told apart? Paired by seed: what two runs of one seed share does not count.

The verdict is a paired t test, adjusted by Holm's procedure for all comparisons that are made at
once. It assumes that the differences between runs of one seed are independent and normal; with
few seeds nobody can check that. The exact signed-rank test of the same differences assumes only
that they are symmetric, and is a check from the number of seeds on at which it can reach 0.05.

The interval belongs to the verdict: it excludes 0 exactly where Holm's procedure tells the two
apart. It is Bonferroni's simultaneous interval (t, 1 - 0.05 / m for m comparisons), with the end
nearer to 0 at the level of Holm's step where only Holm's later, less strict steps see a
difference. Of rows that Holm does not tell apart it is at the level at which he stopped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from kdbench.errors import DataError

ALPHA = 0.05
MIN_SEEDS = 3  # below, a spread is hardly one
FEW_SEEDS = 5  # below, one odd seed decides
# Accuracies are hits over samples; what differs by less than this are equal hits, badly rounded.
_DIGITS = 9

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, over the seeds that both have.

    Attributes:
        n: pairs.
        difference: mean of (this - other); None without a pair.
        spread: standard deviation of the differences (n - 1); None below two pairs.
        interval: ends of the simultaneous interval of that mean; it excludes 0 exactly where
            ``is_distinguishable``. None where there is no test.
        p: of the paired t test, two-sided; None below three pairs, and where all pairs differ by
            the same: without a spread there is no such test. 1 where no pair differs at all.
        rank_p: of the exact signed-rank test, two-sided; None below three pairs.
        effect: mean over standard deviation of the differences; None where they do not vary.
        larger_is_better: what the numbers mean.
        family: tests that this one was made with, itself included.
        adjusted_p, adjusted_rank_p: after ``holm`` over the family.
    """

    n: int
    difference: float | None
    spread: float | None
    interval: Interval | None
    p: float | None
    rank_p: float | None
    effect: float | None
    larger_is_better: bool
    family: int = 1
    adjusted_p: float | None = None
    adjusted_rank_p: float | None = None

    @property
    def is_distinguishable(self) -> bool:
        """Whether the two differ by more than chance, at a level of 0.05 for the whole family."""
        return self.adjusted_p is not None and self.adjusted_p < ALPHA

    @property
    def has_few_seeds(self) -> bool:
        """Whether there is a test, of so few seeds that one of them may decide it."""
        return self.p is not None and self.n < FEW_SEEDS

    @property
    def rank_test_agrees(self) -> bool | None:
        """Whether the signed-rank test says the same; None where it can never find anything."""
        if self.p is None or self.adjusted_rank_p is None or self.n < least_seeds(self.family):
            return None
        return (self.adjusted_rank_p < ALPHA) == self.is_distinguishable

    @property
    def verdict(self) -> str:
        """The comparison in two words or three."""
        if self.n < MIN_SEEDS:
            return f"too few seeds (n={self.n})"
        if self.p is None:
            return "no spread"
        if self.is_distinguishable and self.difference:
            return "better" if (self.difference > 0) == self.larger_is_better else "worse"
        return "not distinguishable"

    @property
    def statement(self) -> str:
        """The verdict with everything that limits it."""
        if self.adjusted_p is None:
            return self.verdict
        said = [self.verdict, *(["few seeds"] if self.has_few_seeds else [])]
        p = write_p(self.adjusted_p)
        text = f"{', '.join(said)} (p{'' if p.startswith('<') else '='}{p})"
        return f"{text}; signed-rank test differs" if self.rank_test_agrees is False else text


def compare_all(
    values: Mapping[str, Mapping[int, float]], other: str, *, larger_is_better: bool = True
) -> dict[str, Comparison]:
    """Compares methods with one of them, and adjusts p-values and intervals for being several.

    Pairs are the seeds that both have; seeds of one alone do not count.

    Args:
        values: method -> seed -> value.
        other: the method that all others are compared with; where it is not there, n is 0.
        larger_is_better: False for losses, errors, times.

    Raises:
        DataError: a value is not finite.
    """
    return _adjust(
        {
            name: _compare(own, values.get(other, {}), larger_is_better)
            for name, own in values.items()
            if name != other
        }
    )


def find_winner(
    values: Mapping[str, Mapping[int, float]], *, larger_is_better: bool = True
) -> str | None:
    """The method with the best mean, if it beats the second best by more than chance; else None.

    It is chosen after the fact, so its lead is adjusted for all that it was chosen from.

    Args:
        values: method -> seed -> value; each has at least one.
        larger_is_better: see ``compare_all``.
    """
    if len(values) < 2:
        return None
    means = {name: float(np.mean(list(own.values()))) for name, own in values.items()}
    best, second, *_ = sorted(means, key=lambda name: means[name], reverse=larger_is_better)
    lag = compare_all(values, best, larger_is_better=larger_is_better)[second]
    return best if lag.verdict == "worse" else None


def signed_rank_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact: over all 2^n signs of the ranks at hand.

    Zeros are left out, and equal sizes share their mean rank (Wilcoxon's own conventions). SciPy
    computes it where all sizes differ; its exact distribution knows no shared ranks.
    """
    rounded = np.round(differences, _DIGITS)
    kept = rounded[rounded != 0]
    if not len(kept):
        return 1.0
    _, place, ties = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    if ties.max() > 1:
        return _tied_rank_p(kept, (2 * np.cumsum(ties) - ties + 1)[place])
    from scipy.stats import wilcoxon  # half a second to import, and not every report compares

    return float(wilcoxon(kept, method="exact").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests for being several (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure tests each hypothesis, in the order given.

    That is 0.05 over the number of those not rejected before it; those that are not rejected have
    the level at which the procedure stopped.
    """
    levels = [0.0] * len(p_values)
    stopped: float | None = None
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        left = len(p_values) - done
        if stopped is None and left * p_values[place] >= ALPHA:  # as ``holm`` computes it
            stopped = ALPHA / left
        levels[place] = stopped or ALPHA / left
    return levels


def least_seeds(comparisons: int) -> int:
    """Seeds below which a signed-rank test cannot find the clearest of so many differences.

    The least two-sided p of n pairs is 2 / 2^n: 0.0625 with five.
    """
    return next(n for n in range(1, 100) if comparisons * 2 / 2**n < ALPHA)


def write_p(p: float) -> str:
    """A p-value as people read it: "0.031", "0.0004", "<0.0001"."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def _compare(a: Mapping[int, float], b: Mapping[int, float], larger_is_better: bool) -> Comparison:
    """A comparison by itself, without what depends on the others."""
    for seed, value in (*a.items(), *b.items()):
        if not math.isfinite(value):
            raise DataError(
                f"the value of seed {seed} is {value}, and only finite numbers can be compared; "
                f"leave that seed out"
            )
    found = np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
    n = len(found)
    mean = float(found.mean()) if n else None
    varies = n > 1 and len(np.unique(np.round(found, _DIGITS))) > 1
    spread = (float(found.std(ddof=1)) if varies else 0.0) if n > 1 else None
    p = None
    if n >= MIN_SEEDS and mean is not None:
        if spread:
            p = float(2 * stdtr(n - 1, -abs(mean) / (spread / math.sqrt(n))))
        elif abs(mean) < 10**-_DIGITS:
            p = 1.0
    return Comparison(
        n=n,
        difference=mean,
        spread=spread,
        interval=None,
        p=p,
        rank_p=signed_rank_p(found) if n >= MIN_SEEDS else None,
        effect=mean / spread if mean is not None and spread else None,
        larger_is_better=larger_is_better,
    )


def _adjust(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Comparisons that are made at once: adjusted p-values, and the intervals that go with them."""
    tests = {name: c.p for name, c in comparisons.items() if c.p is not None}
    ranks = {name: c.rank_p for name, c in comparisons.items() if c.rank_p is not None}
    p = dict(zip(tests, holm(list(tests.values())), strict=True))
    rank_p = dict(zip(ranks, holm(list(ranks.values())), strict=True))
    levels = dict(zip(tests, holm_levels(list(tests.values())), strict=True))
    family = max(1, len(tests))
    adjusted = {
        name: replace(c, family=family, adjusted_p=p.get(name), adjusted_rank_p=rank_p.get(name))
        for name, c in comparisons.items()
    }
    return {
        name: replace(c, interval=_interval(c, levels[name])) if name in levels else c
        for name, c in adjusted.items()
    }


def _interval(comparison: Comparison, level: float) -> Interval | None:
    """See the head of this file; None where the differences do not vary."""
    if comparison.difference is None or not comparison.spread:
        return None
    mean, error = comparison.difference, comparison.spread / math.sqrt(comparison.n)
    step = _half_width(level, comparison.n, error)
    if not comparison.is_distinguishable:
        return mean - step, mean + step
    far = _half_width(ALPHA / comparison.family, comparison.n, error)
    near = far if far < abs(mean) else step
    return (mean - near, mean + far) if mean > 0 else (mean - far, mean + near)


def _half_width(level: float, n: int, error: float) -> float:
    return float(-stdtrit(n - 1, level / 2)) * error


def _tied_rank_p(kept: np.ndarray, doubled_ranks: np.ndarray) -> float:
    chances = np.ones(1)  # of each sum of the (doubled, so whole) ranks with a plus
    for rank in doubled_ranks:
        chances = np.pad(chances, (0, rank)) / 2 + np.pad(chances, (rank, 0)) / 2
    plus = int(doubled_ranks[kept > 0].sum())
    least = min(plus, int(doubled_ranks.sum()) - plus)
    return min(1.0, 2 * float(chances[: least + 1].sum()))
