import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import stdtrit

from kdbench.errors import DataError
from kdbench.report import statistics
from kdbench.report.statistics import (
    compare_all,
    find_winner,
    holm,
    holm_levels,
    least_seeds,
    signed_rank_p,
    write_p,
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


patient = settings(deadline=None, max_examples=60)  # the first call imports half of SciPy


def compare_paired(a, b, **options):
    return compare_all({"a": a, "b": b}, "b", **options)["a"]


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
    assert found.p == pytest.approx(t.pvalue, rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.difference == pytest.approx(sum(differences) / len(differences), abs=1e-12)
    assert found.effect == pytest.approx(t.statistic / math.sqrt(len(a)), rel=1e-9)
    exact = stats.wilcoxon(differences, method="exact").pvalue
    assert found.rank_p == pytest.approx(exact, abs=1e-12)


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
    assert (same.difference, same.interval, same.p, same.effect) == (0.0, None, 1.0, None)
    assert same.verdict == "not distinguishable"


@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_differences_have_no_interval_of_no_width(n):
    found = compare_paired(seeds([51.1] * n), seeds([50.0] * n))
    assert found.difference == pytest.approx(1.1)
    assert (found.interval, found.effect, found.p) == (None, None, None)
    assert found.rank_p == (None if n < 3 else 2 / 2**n)
    assert found.verdict == ("too few seeds (n=2)" if n == 2 else "no spread")


@pytest.mark.parametrize("n", range(7))
def test_below_three_seeds_nothing_is_claimed_and_below_five_they_are_few(n):
    found = compare_paired(seeds([90.0 + i for i in range(n)]), seeds([10.0] * 9))
    assert found.n == n
    assert (found.p is None) == (found.interval is None) == (found.rank_p is None) == (n < 3)
    assert found.verdict == ("better" if n >= 3 else f"too few seeds (n={n})")
    assert found.has_few_seeds == (n in (3, 4))
    assert ("few seeds" in found.statement) == (n < 5)
    assert (found.difference is None) == (n == 0)
    assert (found.spread is None) == (n < 2)


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


numbers = st.lists(st.integers(-300, 300), min_size=3, max_size=12)
# Row -> lead over the baseline, hits that one seed has more than another: as accuracies are.
families = st.integers(2, 9).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(-60, 60), st.lists(st.integers(-20, 20), min_size=n, max_size=n)),
        min_size=1,
        max_size=10,
    )
)


def compare_family(rows):
    base = [60 + 0.37 * seed for seed in range(len(rows[0][1]))]
    values = {
        f"row{i}": seeds(b + (lead + own) / 10 for b, own in zip(base, noise, strict=True))
        for i, (lead, noise) in enumerate(rows)
    }
    return compare_all(values | {"kd": seeds(base)}, "kd")


@patient
@given(families)
def test_an_interval_excludes_zero_exactly_where_the_verdict_says_so(rows):
    for found in compare_family(rows).values():
        if found.interval is None:
            assert found.verdict not in ("better", "worse")
            continue
        low, high = found.interval
        assert low < found.difference < high
        assert (low > 0) == (found.verdict == "better")
        assert (high < 0) == (found.verdict == "worse")


@patient
@given(families)
def test_intervals_are_never_narrower_than_alone_and_the_far_end_is_bonferronis(rows):
    found = compare_family(rows)
    for comparison in found.values():
        if comparison.interval is None:
            continue
        degrees, error = comparison.n - 1, comparison.spread / math.sqrt(comparison.n)
        low, high = comparison.interval
        plain = stdtrit(degrees, 0.975)
        assert high - comparison.difference >= plain * error * (1 - 1e-9)
        assert comparison.difference - low >= plain * error * (1 - 1e-9)
        if comparison.verdict == "better":
            bonferroni = stdtrit(degrees, 1 - 0.025 / comparison.family)
            assert high - comparison.difference == pytest.approx(bonferroni * error)


def test_intervals_hold_all_true_differences_at_once(monkeypatch):
    """Simulated: 95 % where all rows differ or none does, and more than 90 % in between."""
    monkeypatch.setattr(statistics, "signed_rank_p", lambda _: 1.0)  # it takes most of the time
    chance = np.random.default_rng(7)
    for leads in ([0.0] * 8, [9.0] * 8, [0.0] + [9.0] * 7, [0.0] * 4 + [3.0] * 4):
        held, wrong, times = 0, 0, 200
        for _ in range(times):
            base = chance.normal(60, 1, 5)
            rows = {i: chance.normal(60 + lead, 1, 5) for i, lead in enumerate(leads)}
            values = {"kd": seeds(base)} | {str(i): seeds(row) for i, row in rows.items()}
            found = [compare_all(values, "kd")[str(i)] for i in rows]
            pairs = list(zip(found, leads, strict=True))
            held += all(c.interval[0] <= lead <= c.interval[1] for c, lead in pairs)
            wrong += any(c.is_distinguishable and not lead for c, lead in pairs)
        mixed = 0 < sum(map(bool, leads)) < len(leads)
        assert held / times > (0.84 if mixed else 0.9)  # 0.90 and 0.95, less the chance in 200
        assert wrong / times < 0.11  # 0.05, and four standard errors of 200 trials


@patient
@given(numbers, st.integers(-50, 50))
def test_a_common_shift_changes_nothing(hits, shift):
    a, b = seeds(60 + h / 100 for h in hits), seeds([60.0] * len(hits))
    moved = [{seed: value + shift for seed, value in own.items()} for own in (a, b)]
    assert compare_paired(*moved).rank_p == compare_paired(a, b).rank_p
    assert compare_paired(*moved).difference == pytest.approx(compare_paired(a, b).difference)


@patient
@given(numbers)
def test_turned_round_the_sign_changes_and_nothing_else(hits):
    a, b = seeds(60 + h / 100 for h in hits), seeds([60.0] * len(hits))
    this, that = compare_paired(a, b), compare_paired(b, a)
    assert (this.p, this.rank_p) == (that.p, that.rank_p)
    assert this.difference == pytest.approx(-that.difference)
    if this.interval is not None:
        assert this.interval == pytest.approx((-that.interval[1], -that.interval[0]))


@patient
@given(numbers, st.randoms())
def test_the_order_of_seeds_does_not_matter(hits, random):
    names = list(range(len(hits)))
    random.shuffle(names)
    base = dict.fromkeys(names, 60.0)
    found = compare_paired(dict(zip(names, map(float, hits), strict=True)), base)
    other = compare_paired(seeds(map(float, hits)), base)
    assert found.rank_p == other.rank_p
    assert found.p == pytest.approx(other.p) if found.p is not None else other.p is None
    assert 0 < found.rank_p <= 1


@patient
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


@patient
@given(st.lists(st.floats(0, 1), max_size=9))
def test_levels_are_those_at_which_holm_stops(p_values):
    rejected = [p < 0.05 for p in holm(p_values)]
    levels = holm_levels(p_values)
    left = len(p_values) - sum(rejected)
    for p, level, is_rejected in zip(p_values, levels, rejected, strict=True):
        assert (p < level) == is_rejected or p == pytest.approx(level)
        assert is_rejected or level == 0.05 / left


def spread(mean):
    return [mean + 0.1 * (i % 3) for i in range(7)]


def test_comparisons_are_adjusted_for_each_other():
    values = {"kd": seeds([50.0] * 7), "a": seeds(spread(51)), "b": seeds(spread(52))}
    values |= {"few": {0: 99.0}, "equal": seeds([53.0] * 7)}
    found = compare_all(values, "kd")
    assert list(found) == ["a", "b", "few", "equal"]
    assert {c.family for c in found.values()} == {2}  # two have a t test
    alone = compare_paired(values["b"], values["kd"])
    assert found["b"].p == alone.p
    assert found["b"].adjusted_p == pytest.approx(2 * alone.p)
    assert found["b"].interval[0] < alone.interval[0] < alone.interval[1] < found["b"].interval[1]
    assert found["few"].adjusted_p is found["equal"].adjusted_p is None
    assert found["equal"].statement == "no spread"


def test_the_signed_rank_test_is_a_check_where_it_can_find_anything():
    clear = compare_paired(seeds(spread(51)), seeds([50.0] * 7))
    assert (clear.rank_p, clear.rank_test_agrees) == (2 / 2**7, True)
    assert clear.statement == "better (p<0.0001)"
    # One seed far below: the t test sees spread, ranks see six of seven.
    values = [50.0 + d for d in (-0.1, 5.0, 5.1, 5.2, 5.3, 5.4, 5.5)]
    mixed = compare_paired(seeds(values), seeds([50.0] * 7))
    assert (mixed.rank_p < 0.05, mixed.rank_test_agrees) == (True, True)
    wild = compare_paired(seeds([51.0, 51.1, 51.2, 51.3, 51.4, 90.0]), seeds([50.0] * 6))
    assert (wild.verdict, wild.rank_test_agrees) == ("not distinguishable", False)
    assert wild.statement.endswith("; signed-rank test differs")
    few = compare_paired(seeds(spread(51)[:5]), seeds([50.0] * 5))
    assert (few.verdict, few.rank_p, few.rank_test_agrees) == ("better", 2 / 2**5, None)


def test_a_winner_needs_seeds_and_distance():
    clear = {
        "a": seeds([50.0 + i for i in range(7)]),
        "b": seeds([60.1 + 1.1 * i for i in range(7)]),
    }
    assert find_winner(clear) == "b"
    assert find_winner(clear, larger_is_better=False) == "a"
    assert find_winner({name: seeds(range(5)) for name in "ab"}) is None
    assert find_winner({name: dict(list(own.items())[:2]) for name, own in clear.items()}) is None
    assert find_winner({"a": clear["a"]}) is None
    close = clear | {"c": {seed: value + (-1) ** seed / 9 for seed, value in clear["b"].items()}}
    assert find_winner(close) is None


def test_a_lucky_single_run_is_no_winner_and_lets_none_be():
    values = {"a": seeds([50.0] * 7), "b": seeds([60.0] * 7), "lucky": {0: 70.0}}
    assert find_winner(values) is None


@pytest.mark.parametrize("comparisons", [1, 2, 5, 17])
def test_least_seeds_of_ranks_can_reach_the_level_and_one_less_cannot(comparisons):
    n = least_seeds(comparisons)
    assert holm([signed_rank_p([1.0] * n)] * comparisons)[0] < 0.05
    assert holm([signed_rank_p([1.0] * (n - 1))] * comparisons)[0] >= 0.05
    assert least_seeds(1) == 6


def test_p_values_are_short():
    assert [write_p(p) for p in (0.5, 0.0313, 0.00042, 1e-9)] == [
        "0.5",
        "0.031",
        "0.00042",
        "<0.0001",
    ]
