"""Significance tests between methods, paired by seed.

The verdict is a paired t test, adjusted by Holm's procedure for all simultaneous comparisons. It
assumes that the differences between runs with equal seeds are independent and normal, which cannot
be checked with few seeds. The exact signed-rank test of the same differences only assumes symmetry;
it serves as a check once there are enough seeds for it to reach 0.05.

The interval matches the verdict: it excludes 0 exactly if Holm's procedure rejects equality. It is
Bonferroni's simultaneous interval (t, 1 - 0.05 / m for m comparisons), with the end nearer to 0 at
the level of Holm's step if only Holm's later, less strict steps find a difference. For rows that
are not rejected it is at the level at which the procedure stopped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from kdbench.errors import DataError

ALPHA = 0.05
MIN_SEEDS = 3  # below, the spread is meaningless
FEW_SEEDS = 5  # below, a single outlier decides
# Accuracies are ratios of counts; smaller differences are rounding errors of equal counts.
_DIGITS = 9

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, over their common seeds.

    Attributes:
        n: pairs.
        difference: mean of (this - other); None without a pair.
        spread: standard deviation of the differences (n - 1); None below two pairs.
        interval: ends of the simultaneous interval of that mean; it excludes 0 exactly where
            ``is_distinguishable``. None without a test.
        p: of the paired t test, two-sided; None below three pairs, and if all differences are equal
            (no spread, test undefined); 1 if all are zero.
        rank_p: of the exact signed-rank test, two-sided; None below three pairs.
        effect: mean over standard deviation of the differences; None if they do not vary.
        larger_is_better: False for losses, errors, times.
        family: number of simultaneous tests, including this one.
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
        """Whether the difference is significant, at a family-wise level of 0.05."""
        return self.adjusted_p is not None and self.adjusted_p < ALPHA

    @property
    def has_few_seeds(self) -> bool:
        """Whether there is a test, but with so few seeds that one of them may decide it."""
        return self.p is not None and self.n < FEW_SEEDS

    @property
    def rank_test_agrees(self) -> bool | None:
        """Whether the signed-rank test agrees; None if it cannot reach significance."""
        if self.p is None or self.adjusted_rank_p is None or self.n < least_seeds(self.family):
            return None
        return (self.adjusted_rank_p < ALPHA) == self.is_distinguishable

    @property
    def verdict(self) -> str:
        """The result of the comparison in a few words."""
        if self.n < MIN_SEEDS:
            return f"too few seeds (n={self.n})"
        if self.p is None:
            return "no spread"
        if self.is_distinguishable and self.difference:
            return "better" if (self.difference > 0) == self.larger_is_better else "worse"
        return "not distinguishable"

    @property
    def statement(self) -> str:
        """The verdict with p-value and caveats."""
        if self.adjusted_p is None:
            return self.verdict
        parts = [self.verdict, *(["few seeds"] if self.has_few_seeds else [])]
        p = write_p(self.adjusted_p)
        text = f"{', '.join(parts)} (p{'' if p.startswith('<') else '='}{p})"
        return f"{text}; signed-rank test differs" if self.rank_test_agrees is False else text


def compare_all(
    values: Mapping[str, Mapping[int, float]], other: str, *, larger_is_better: bool = True
) -> dict[str, Comparison]:
    """Compares all methods with one of them, with p-values and intervals adjusted.

    Pairs are the seeds that both methods have.

    Args:
        values: method -> seed -> value.
        other: the method that all others are compared with; if it is missing, n is 0.
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
    """The method with the best mean, if it is significantly better than the second best; else None.

    It is selected after the fact, so the test is adjusted for all methods that it is selected from.

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
    """Two-sided exact p of Wilcoxon's signed-rank test, over all 2^n signs of the observed ranks.

    Zeros are dropped, and ties share their mean rank (Wilcoxon's own conventions). SciPy computes
    it without ties; its exact distribution does not support them.
    """
    rounded = np.round(differences, _DIGITS)
    kept = rounded[rounded != 0]
    if not len(kept):
        return 1.0
    _, place, ties = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    if ties.max() > 1:
        return _tied_rank_p(kept, (2 * np.cumsum(ties) - ties + 1)[place])
    from scipy.stats import wilcoxon  # slow to import, and not needed by every report

    return float(wilcoxon(kept, method="exact").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for multiple testing (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure tests each hypothesis, in the order given.

    That is 0.05 over the number of hypotheses not rejected before it; hypotheses that are not
    rejected have the level at which the procedure stopped.
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
    """The fewest seeds with which a signed-rank test can reach significance.

    The smallest two-sided p for n pairs is 2 / 2^n: 0.0625 for five.
    """
    return next(n for n in range(1, 100) if comparisons * 2 / 2**n < ALPHA)


def write_p(p: float) -> str:
    """A p-value for display: "0.031", "0.0004", "<0.0001"."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def _compare(a: Mapping[int, float], b: Mapping[int, float], larger_is_better: bool) -> Comparison:
    """A single comparison, not yet adjusted for the others."""
    for seed, value in (*a.items(), *b.items()):
        if not math.isfinite(value):
            raise DataError(
                f"the value of seed {seed} is {value}, but only finite numbers can be compared; "
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
    """Adjusts the p-values of simultaneous comparisons, and adds the matching intervals."""
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
    """See the module docstring; None if the differences do not vary."""
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
    chances = np.ones(1)  # of each sum of positive ranks, doubled to be integers
    for rank in doubled_ranks:
        chances = np.pad(chances, (0, rank)) / 2 + np.pad(chances, (rank, 0)) / 2
    plus = int(doubled_ranks[kept > 0].sum())
    least = min(plus, int(doubled_ranks.sum()) - plus)
    return min(1.0, 2 * float(chances[: least + 1].sum()))
