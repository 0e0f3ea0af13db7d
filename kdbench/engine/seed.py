"""Random state: each stream has its own seed, each learner its own generator state."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for a named stream; the streams of a run are independent."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RandomState:
    """One learner's state of the global torch generators.

    Dropout and sampling strategies draw from torch's global generators. A learner must draw the
    same numbers alone and in a cohort, so each one swaps in its own state for its turn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        with self._preserved():
            torch.manual_seed(seed)
            self._state = self._read()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within this context the global generators have this learner's state."""
        with self._preserved():
            self._write(self._state)
            try:
                yield
            finally:
                self._state = self._read()

    def state_dict(self) -> dict[str, Tensor]:
        """Generator states as byte tensors."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores generator states; without a saved CUDA state, the current one stays."""
        self._state = {**self._state, **state}

    @contextmanager
    def _preserved(self) -> Iterator[None]:
        outside = self._read()
        try:
            yield
        finally:
            self._write(outside)

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self._cuda is not None:
            state["cuda"] = torch.cuda.get_rng_state(self._cuda)
        return state

    def _write(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self._cuda is not None and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._cuda)
