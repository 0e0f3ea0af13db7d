"""Cache of the teacher's logits on training views, so that each view is computed only once.

The memo fills during training: the first run computes the views it sees; later epochs, learners,
methods and seeds that see them again only read. Cached logits come from the batch in which a view
was first seen. A convolution's sums depend on the batch size, so they may differ from recomputed
logits in the last bits (fp32: up to 1e-5 of the largest logit).
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
    """Everything the logits depend on; if any value differs, so does the memo.

    Attributes:
        teacher_digest: SHA-256 of the teacher's weights.
        dataset_digest: SHA-256 of the dataset.
        num_samples: N, size of the full train split, regardless of the protocol.
        num_views: V, views per image.
        num_classes: K.
        preprocessing: how stored images become the network's input; JSON types only.
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
        """Number of rows when full."""
        return self.num_samples * self.num_views

    @cached_property
    def text(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``text``."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Store(Protocol):
    """Logits by row number, ``index * num_views + view``.

    Attributes:
        mode: value of ``teacher.memo`` that selects this store.
        place: location, for log lines.
        num_bytes: size when full.
    """

    mode: str
    place: str
    num_bytes: int

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Looks up rows [B].

        Returns:
            Logits [B, K] float32, and the positions [M] int64 of the missing rows, whose logits
            are undefined.
        """
        ...

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """Stores logits [B, K] of rows [B]."""
        ...


class Memo:
    """A store with hit statistics.

    Args:
        store: holds the logits.
        num_views: V.

    Attributes:
        lookups: rows looked up by this process.
        hits: rows found in the store.
    """

    def __init__(self, store: Store, num_views: int) -> None:
        self.store, self.num_views = store, num_views
        self.lookups = self.hits = 0

    def lookup(
        self, images: Tensor, index: Tensor, view: Tensor, network: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """[B, K] logits of a batch; missing ones are computed and stored.

        Args:
            images: [B, C, H, W].
            index: [B] sample indices.
            view: [B] view numbers.
            network: computes the missing logits.
        """
        rows = index * self.num_views + view
        # Reading synchronizes with the device once per batch, as the CPU needs the number of
        # missing rows. A file store synchronizes again to write them.
        logits, missing = self.store.read(rows)
        self.lookups += len(rows)
        self.hits += len(rows) - len(missing)
        if len(missing):
            fresh = network(images[missing])
            self.store.write(rows[missing], fresh)
            logits[missing] = fresh
        return logits

    def report(self) -> dict[str, Any]:
        """Statistics for the run's record; counts cover all runs of this process."""
        return {
            "mode": self.store.mode,
            "asked": self.lookups,
            "remembered": self.hits,
            "megabytes": round(self.store.num_bytes / 1e6, 3),
        }

    def summary(self) -> str:
        """The statistics in one line."""
        share = 100 * self.hits / max(self.lookups, 1)
        return (
            f"teacher memo ({self.store.mode}): {share:.1f} % hits in {self.lookups:,} lookups, "
            f"{self.store.num_bytes / 1e6:,.0f} MB in {self.store.place}"
        )


class MemoryStore:
    """A store in device memory; lost when the process ends.

    Raises:
        ResourceError: not enough memory on the device.
    """

    mode = "memory"

    def __init__(self, identity: MemoIdentity, device: torch.device) -> None:
        shape = identity.num_rows, identity.num_classes
        try:
            # On a CPU, pages of a large empty tensor are allocated on first write.
            self._logits = torch.empty(shape, device=device)
            self._known = torch.zeros(shape[0], dtype=torch.bool, device=device)
        except RuntimeError as error:
            raise ResourceError(
                f"not enough memory on {device} for a teacher memo of "
                f"{4 * shape[0] * shape[1]:,} bytes ({first_line(error)}); use teacher.memo=disk "
                f"or teacher.memo=off"
            ) from error
        self.place = f"memory of {device}"
        self.num_bytes = self._logits.nbytes + self._known.nbytes

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Store.read``."""
        missing = (~self._known[rows]).nonzero().squeeze(1)  # synchronizes
        return self._logits[rows], missing

    def write(self, rows: Tensor, logits: Tensor) -> None:
        """See ``Store.write``."""
        self._logits.index_copy_(0, rows, logits)
        self._known.index_fill_(0, rows, True)
