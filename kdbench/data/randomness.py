"""Counter-based random numbers: hashes instead of a generator with state.

A number is a function of its counters, such as (data seed, epoch, sample). So batches are the same
on every device, for any number of workers, after a restart, and with any version of numpy.
"""

import hashlib

import numpy as np

# Constants of splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
# OOPSLA 2014.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)

# Purposes: they make the order and the views of the same sample independent.
ORDER, VIEW, TRANSFORM, STRONG, STRONG_VIEW = 1, 2, 3, 4, 5


def view_seed(data_seed: int, name: str) -> int:
    """What takes the place of the data seed in a further view: two views are unrelated."""
    if name == "strong":  # was there before views had names
        return data_seed
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return int(hash64(data_seed, word)[0])


def hash64(*words: int | np.ndarray) -> np.ndarray:
    """Uniform 64-bit hashes of counters.

    Args:
        words: integers or integer arrays, broadcast against each other; taken modulo 2^64. Their
            order matters.

    Returns:
        uint64, at least one-dimensional.
    """
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        number = word if isinstance(word, np.ndarray) else np.array([word % 2**64])
        state = _mix((state + _STEP) ^ number.astype(np.uint64))
    return state


def uniform(*words: int | np.ndarray) -> np.ndarray:
    """Uniform float64 in [0, 1) of counters; arguments as for ``hash64``."""
    return (hash64(*words) >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _FACTOR_1
    bits = (bits ^ (bits >> np.uint64(27))) * _FACTOR_2
    return bits ^ (bits >> np.uint64(31))
