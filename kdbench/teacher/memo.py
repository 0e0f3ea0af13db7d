"""What the teacher has answered before, so that no view of an image is asked about twice.

A memo fills as training goes: the first run pays for the views that it sees, and every later
epoch, learner, method and seed that sees one of them again only reads. Answers are those of the
batch in which a view was seen first: a convolution's sums depend on the size of the batch, so they
may differ from fresh ones in the last bits (fp32: up to 1e-5 of the largest logit).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from kdbench.errors import ResourceError, first_line


@dataclass(frozen=True, kw_only=True)
class MemoIdentity:
    """Everything that answers depend on: another value of any of these is another memo.

    Attributes:
        teacher_digest: SHA-256 of the teacher's weights.
        dataset_digest: SHA-256 that identifies the images.
        num_samples: N, size of the full train split, whatever part of it the protocol trains on.
        num_views: V, views of an image.
        num_classes: K.
        preprocessing: what turns stored images into the network's input; JSON types only.
        precision: "fp32", "bf16" or "fp16".
        layout: see ``Compute.layout``.
        device_type: "cpu" or "cuda".
    """

    teacher_digest: str
    dataset_digest: str
    num_samples: int
    num_views: int
    num_classes: int
    preprocessing: Mapping[str, Any]
    precision: str
    layout: str
    device_type: str

    @property
    def num_rows(self) -> int:
        """Answers that the memo has room for."""
        return self.num_samples * self.num_views

    @cached_property
    def text(self) -> str:
        """As JSON, the same for equal identities."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Store(Protocol):
    """Logits by row number, ``index * num_views + view``.

    Attributes:
        mode: value of ``teacher.memo`` that chooses it.
        place: where it is, for log lines.
        num_bytes: its size when full.
    """

    mode: str
    place: str
    num_bytes: int

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of rows [B].

        Returns:
            Logits [B, K] float32, and the positions [M] int64 in the batch of those that are not
            known and whose logits mean nothing.
        """
        ...

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """Keeps logits [B, K] of rows [B]."""
        ...


class Memo:
    """A store, and how often it was of use.

    Args:
        store: where the answers are.
        num_views: V.

    Attributes:
        asked: answers given by this process.
        remembered: those of them that the store knew.
    """

    def __init__(self, store: Store, num_views: int) -> None:
        self.store, self.num_views = store, num_views
        self.asked = self.remembered = 0

    def answer(
        self, images: Tensor, index: Tensor, view: Tensor, ask: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """[B, K] logits of a batch; those that are not known are asked for at once and kept.

        Args:
            images: [B, C, H, W].
            index: [B] samples.
            view: [B] views of them.
            ask: the network.
        """
        rows = index * self.num_views + view
        # Reading waits for the device, once a batch: the CPU must know how many to ask for. A file
        # waits once more for what it has to write.
        logits, missing = self.store.read(rows)
        self.asked += len(rows)
        self.remembered += len(rows) - len(missing)
        if len(missing):
            fresh = ask(images[missing])
            self.store.write(rows[missing], fresh)
            logits[missing] = fresh
        return logits

    def report(self) -> dict[str, Any]:
        """What a run's record says of it; counts are those of this process, all runs together."""
        return {
            "mode": self.store.mode,
            "asked": self.asked,
            "remembered": self.remembered,
            "megabytes": round(self.store.num_bytes / 1e6, 3),
        }

    def summary(self) -> str:
        """The same in a line."""
        share = 100 * self.remembered / max(self.asked, 1)
        return (
            f"teacher memo ({self.store.mode}): {share:.1f} % of {self.asked:,} answers "
            f"remembered, {self.store.num_bytes / 1e6:,.0f} MB in {self.store.place}"
        )


class MemoryStore:
    """A store on the device of the networks; it ends with the process.

    Raises:
        ResourceError: the device has no room for it.
    """

    mode = "memory"

    def __init__(self, identity: MemoIdentity, device: torch.device) -> None:
        shape = identity.num_rows, identity.num_classes
        try:
            # On a CPU the pages of a large empty tensor are taken when they are first written.
            self._logits = torch.empty(shape, device=device)
            self._known = torch.zeros(shape[0], dtype=torch.bool, device=device)
        except RuntimeError as error:
            raise ResourceError(
                f"{device} has no room for a teacher memo of {4 * shape[0] * shape[1]:,} bytes "
                f"({first_line(error)}); use teacher.memo=disk or teacher.memo=off"
            ) from error
        self.place = f"memory of {device}"
        self.num_bytes = self._logits.nbytes + self._known.nbytes

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Store.read``."""
        missing = (~self._known[rows]).nonzero().squeeze(1)  # waits for the device
        return self._logits[rows], missing

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """See ``Store.write``."""
        self._logits.index_copy_(0, rows, logits)
        self._known.index_fill_(0, rows, True)
