"""SHA-256 of files and state dicts, to identify weight files, datasets and finished runs.

Importing this module needs no torch; ``state_digest`` imports it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in chunks (any size)."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(state_dict: "Mapping[str, Tensor]") -> str:
    """SHA-256 of a state dict as 64 hex digits.

    Covers, for each key in sorted order, the key, the name of the dtype, the shape and the values
    as little-endian bytes; independent of device, memory format and order of the keys.

    Args:
        state_dict: tensors of any real dtype (bfloat16 too) and any shape.
    """
    import torch

    # numpy has no bfloat16, but can order the bytes of an integer of the same width
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{key}\0{dtype}\0{tuple(tensor.shape)}\0".encode())
        bits = tensor.contiguous().flatten().view(integers[tensor.itemsize]).numpy()
        digest.update(bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


# safetensors' names of dtypes -> torch's
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}


def safetensors_digest(path: str | Path) -> str:
    """``state_digest`` of the tensors in a safetensors file, without torch and without a copy.

    Raises:
        ValueError: not a valid safetensors file, or an unsupported dtype.
        OSError: it cannot be read.
    """
    payload = memoryview(Path(path).read_bytes())
    try:
        length = int.from_bytes(payload[:8], "little")
        header = json.loads(bytes(payload[8 : 8 + length]))
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for key in sorted(header):
            entry = header[key]
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            if not 0 <= start <= end <= len(payload):
                raise ValueError("shorter than its header says")
            shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
            digest.update(f"{key}\0{dtype}\0{shape}\0".encode())
            digest.update(payload[start:end])  # little-endian, and in the order of the shape
    except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"not a valid safetensors file: {error}") from error
    return digest.hexdigest()
