"""Disk cache of the teacher's logits on whole evaluation splits, shared by all runs."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdbench.data.base import DataModule
from kdbench.digest import state_digest
from kdbench.files import write_cache

log = logging.getLogger(__name__)

SplitLogits = tuple[Tensor, Tensor]  # logits [N, K] float32, targets [N] int64


def compute_split_logits(
    network: Callable[[Tensor], Tensor], data: DataModule, split: str
) -> SplitLogits:
    """Logits and targets of all samples of a split, in order.

    Args:
        network: images [B, C, H, W] to logits [B, K].
        data: has the split.
        split: "test", "val" or "train".
    """
    batches = [(network(batch.images), batch.targets) for batch in data.eval_batches(split)]
    logits, targets = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(targets)


class LogitCache:
    """One file per split.

    Cached logits are bit-identical to recomputed ones: the file name is a digest of everything
    that affects the bits.

    Args:
        folder: where the files are; created when first needed.
        identity: plain values: teacher, data, and how and on what machine networks are computed.
    """

    def __init__(self, folder: Path, identity: dict[str, object]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self._folder, self._name = folder, hashlib.sha256(text.encode()).hexdigest()[:16]

    def get(self, split: str, compute: Callable[[], SplitLogits]) -> SplitLogits:
        """Logits and targets of a split, on the CPU; computed if the file is missing or damaged."""
        path = self._folder / f"{split}-{self._name}.safetensors"
        try:
            return _read(path)
        except FileNotFoundError:
            pass
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s); recomputing the teacher's logits", path, error)
        logits, targets = (tensor.cpu() for tensor in compute())
        tensors = {"logits": logits.contiguous(), "targets": targets.contiguous()}
        metadata = {"sha256": state_digest(tensors)}
        write_cache(path, safetensors.torch.save(tensors, metadata))
        return logits, targets


def _read(path: Path) -> SplitLogits:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("logits", "targets")}
        if state_digest(tensors) != (file.metadata() or {}).get("sha256"):
            raise ValueError("its content does not match its digest")
    return tensors["logits"], tensors["targets"]
