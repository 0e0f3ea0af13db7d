"""Random state: every stream has its own seed, every learner its own generator state."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one named stream; streams of one run are unrelated to each other."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RandomState:
    """The global torch generators as one learner sees them.

    Dropout and sampling strategies draw from torch's global generators. A learner that runs alone
    and one that takes turns with others must draw the same numbers, so each learner puts its own
    state in place for its turn and takes it out again.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        with self._preserved():
            torch.manual_seed(seed)
            self._state = self._read()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within this context the global generators continue this learner's own streams."""
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
        """Continues from saved generator states; a missing CUDA state keeps the fresh one."""
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
