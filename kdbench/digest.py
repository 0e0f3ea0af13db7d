"""SHA-256 of files and of state dicts: what identifies a weight file, a dataset, a finished run.

Importing this module needs no torch; ``state_digest`` loads it when a tensor is at hand anyway.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in pieces (any size)."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(state_dict: "Mapping[str, Tensor]") -> str:
    """SHA-256 of a state dict as 64 hex digits.

    Covers, for each key in sorted order, the key, the dtype's name, the shape and the values as
    little-endian bytes; the device, the memory format and the order of the keys do not count.

    Args:
        state_dict: tensors of any real dtype (bfloat16 too) and any shape.
    """
    import torch

    # numpy has no bfloat16, but it can order the bytes of an integer of the same width
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{key}\0{dtype}\0{tuple(tensor.shape)}\0".encode())
        bits = tensor.contiguous().flatten().view(integers[tensor.itemsize]).numpy()
        digest.update(bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
