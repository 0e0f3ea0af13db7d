import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdbench.errors import DataError
from kdbench.results.statistics import (
    compare_all,
    compare_paired,
    find_winner,
    holm,
    least_seeds,
    signed_rank_p,
)

# Differences without ties and zeros, where SciPy's exact test and ours have one convention.
CLEAR = {
    "six, all better": [0.31, 0.12, 0.45, 0.27, 0.09, 0.6],
    "eight, mixed": [0.5, -0.1, 0.3, 0.2, -0.4, 0.7, 0.11, 0.05],
    "ten, worse": [-1.2, -0.4, 0.3, -0.7, -0.9, -0.15, -0.6, 0.1, -0.2, -0.8],
    "fifteen, nothing": [0.1 * i * (-1) ** i + 0.003 * i for i in range(1, 16)],
    "twenty, small": [0.02 * i - 0.1 for i in range(1, 5)] + [0.011 * i for i in range(5, 21)],
}
TIED = [[0.1, 0.1, -0.1, 0.2, 0.2, 0.3, 0.3], [0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.1] * 7]


def seeds(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("differences", CLEAR.values(), ids=CLEAR)
def test_agrees_with_scipy(differences):
    base = [60 + 0.37 * i for i in range(len(differences))]
    a = [b + d for b, d in zip(base, differences, strict=True)]
    found = compare_paired(seeds(a), seeds(base))
    t = stats.ttest_rel(a, base)
    interval = t.confidence_interval(0.95)
    assert found.n == len(differences)
    assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.difference == pytest.approx(sum(differences) / len(differences), abs=1e-12)
    assert found.effect == pytest.approx(t.statistic / math.sqrt(len(a)), rel=1e-9)
    exact = stats.wilcoxon(differences, method="exact").pvalue
    assert found.p == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("differences", TIED)
def test_ties_and_zeros_agree_with_all_sign_flips(differences):
    every_sign = stats.PermutationMethod(n_resamples=math.inf)
    exact = stats.wilcoxon(differences, method=every_sign).pvalue
    assert signed_rank_p(differences) == pytest.approx(exact, abs=1e-12)


def test_equal_hits_are_ties_however_they_are_rounded():
    noisy = [60.1 - 60.0, 50.1 - 50.0, 40.0 - 40.1, 70.3 - 70.0, 10.2 - 10.0, 0.4, 0.5]
    assert signed_rank_p(noisy) == signed_rank_p([0.1, 0.1, -0.1, 0.3, 0.2, 0.4, 0.5])


def test_nothing_differs():
    same = compare_paired(seeds([50.0] * 7), seeds([50.0] * 7))
    assert (same.difference, same.interval, same.p, same.effect) == (0.0, (0.0, 0.0), 1.0, None)
    assert same.verdict == "not distinguishable"


def test_the_same_difference_everywhere():
    found = compare_paired(seeds([51.0] * 7), seeds([50.0] * 7))
    assert (found.difference, found.interval, found.effect) == (1.0, (1.0, 1.0), None)
    assert found.p == 2 / 2**7
    assert found.verdict == "better"


@pytest.mark.parametrize("n", range(6))
def test_below_six_seeds_nothing_is_claimed(n):
    found = compare_paired(seeds([90.0 + i for i in range(n)]), seeds([10.0] * 9))
    assert found.n == n
    assert found.p is None
    assert found.verdict == f"too few seeds (n={n})"
    assert (found.difference is None) == (n == 0)
    assert (found.interval is None) == (found.effect is None) == (n < 2)


def test_only_common_seeds_count():
    found = compare_paired({1: 5.0, 2: 6.0, 9: 100.0}, {1: 4.0, 2: 4.0, 3: 0.0})
    assert (found.n, found.difference) == (2, 1.5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(DataError, match="seed 2"):
        compare_paired({1: 1.0, 2: value}, {1: 1.0})


def test_a_small_loss_is_a_good_one():
    small, large = seeds([1.0 + i / 100 for i in range(8)]), seeds([2.0] * 8)
    assert compare_paired(small, large, larger_is_better=False).verdict == "better"
    assert compare_paired(small, large).verdict == "worse"


numbers = st.lists(st.integers(-300, 300), min_size=6, max_size=12)


@given(numbers, st.integers(-50, 50))
def test_a_common_shift_changes_nothing(hits, shift):
    a, b = seeds(60 + h / 100 for h in hits), seeds([60.0] * len(hits))
    moved = [{seed: value + shift for seed, value in own.items()} for own in (a, b)]
    assert compare_paired(*moved).p == compare_paired(a, b).p
    assert compare_paired(*moved).difference == pytest.approx(compare_paired(a, b).difference)


@given(numbers)
def test_turned_round_the_sign_changes_and_nothing_else(hits):
    a, b = seeds(60 + h / 100 for h in hits), seeds([60.0] * len(hits))
    this, that = compare_paired(a, b), compare_paired(b, a)
    assert this.p == that.p
    assert this.difference == pytest.approx(-that.difference)
    assert this.interval == pytest.approx((-that.interval[1], -that.interval[0]))


@given(numbers, st.randoms())
def test_the_order_of_seeds_does_not_matter(hits, random):
    names = list(range(len(hits)))
    random.shuffle(names)
    base = dict.fromkeys(names, 60.0)
    found = compare_paired(dict(zip(names, map(float, hits), strict=True)), base)
    assert found.p == compare_paired(seeds(map(float, hits)), base).p
    assert 0 < found.p <= 1


@given(st.lists(st.floats(0, 1), max_size=9))
def test_holm_agrees_with_its_definition(p_values):
    # The adjusted p is the least level at which Holm's procedure rejects that hypothesis.
    adjusted = holm(p_values)
    ranked = sorted(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        steps = [(len(ranked) - i) * q for i, q in enumerate(ranked) if q <= p]
        first = [(len(ranked) - i) * q for i, q in enumerate(ranked) if i <= ranked.index(p)]
        assert min(1.0, max(first)) == found <= min(1.0, max(steps))
        assert found >= p


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_comparisons_are_adjusted_for_each_other():
    values = {"kd": seeds([50.0] * 7), "a": seeds([51.0] * 7), "b": seeds([52.0] * 7)}
    values["few"] = {0: 99.0}
    found = compare_all(values, "kd")
    assert list(found) == ["a", "b", "few"]
    assert found["a"].adjusted_p == pytest.approx(2 * found["a"].p) == 4 / 2**7
    assert found["few"].adjusted_p is None


def test_nothing_found_is_not_nothing_there():
    """Six seeds suffice for one comparison and not for two: then it is the seeds that lack."""
    values = {"kd": seeds([50.0] * 6), "a": seeds([51.0] * 6), "b": seeds([50.5, 49.0] * 3)}
    assert compare_all({name: values[name] for name in ("kd", "a")}, "kd")["a"].verdict == "better"
    found = compare_all(values, "kd")
    assert {c.verdict for c in found.values()} == {"too few seeds (n=6)"}
    assert {c.family for c in found.values()} == {2}


def test_a_winner_needs_seeds_and_distance():
    clear = {"a": seeds([50.0 + i for i in range(7)]), "b": seeds([60.0 + i for i in range(7)])}
    assert find_winner(clear) == "b"
    assert find_winner(clear, larger_is_better=False) == "a"
    assert find_winner({name: seeds(range(5)) for name in "ab"}) is None
    assert find_winner({"a": clear["a"]}) is None
    close = clear | {"c": {seed: value + (-1) ** seed / 9 for seed, value in clear["b"].items()}}
    assert find_winner(close) is None


def test_a_lucky_single_run_is_no_winner_and_lets_none_be():
    values = {"a": seeds([50.0] * 7), "b": seeds([60.0] * 7), "lucky": {0: 70.0}}
    assert find_winner(values) is None


@pytest.mark.parametrize("comparisons", [1, 2, 5, 17])
def test_least_seeds_can_reach_the_level_and_one_less_cannot(comparisons):
    n = least_seeds(comparisons)
    best = holm([signed_rank_p([1.0] * n)] * comparisons)[0]
    assert best < 0.05
    assert n == 6 or holm([signed_rank_p([1.0] * (n - 1))] * comparisons)[0] >= 0.05
