import numpy as np
from scipy import stats

from kdbench.data.randomness import hash64


def test_single_mix_is_splitmix64():
    # The first output of splitmix64 seeded with 0 and with 1234567, published with the algorithm.
    assert hash64(0)[0] == 0xE220A8397B1DCDAF
    # One word w mixes (0 + step) ^ w; the generator mixes w + step, equal for w = 0 only.
    assert hash64(1)[0] != hash64(0)[0]


def test_broadcasts_and_agrees_with_single_values():
    index = np.arange(5)
    together = hash64(3, 4, index)
    assert together.dtype == np.uint64
    assert [hash64(3, 4, int(i))[0] for i in index] == list(together)


def test_order_and_number_of_words_count():
    values = {int(hash64(*words)[0]) for words in [(1, 2), (2, 1), (1,), (1, 2, 0), (0, 1, 2)]}
    assert len(values) == 5


def test_any_integer_is_a_seed():
    assert len({int(hash64(seed, 0)[0]) for seed in (-1, 0, 1, 2**63 - 1, 2**64 - 2)}) == 5


def test_uniform_over_neighboring_counters():
    for word in (np.arange(100_000), np.arange(100_000) * 4096):
        for shift in (0, 58):  # lowest and highest bits
            bins = (hash64(0, 0, 1, word) >> np.uint64(shift)) % np.uint64(64)
            counts = np.bincount(bins.astype(int), minlength=64)
            assert stats.chisquare(counts).pvalue > 1e-3
