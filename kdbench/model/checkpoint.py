"""Writes weight files, and loads those of this and other projects into a network.

Never runs code from a file: reads safetensors, or ``torch.load`` with ``weights_only=True`` and no
fallback. Supported formats: RepDistiller, mdistiller (and their many forks), torchdistill, pycls,
timm, and a bare state dict.
"""

import argparse
import json
import logging
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdbench.digest import file_digest
from kdbench.errors import CheckpointError, first_line
from kdbench.files import write_atomic
from kdbench.model import cifar

log = logging.getLogger(__name__)

Role = Literal["student", "teacher"]
Shapes = Mapping[str, tuple[int, ...]]

STATE_KEYS = ("model", "state_dict", "model_state")
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
REMEDY = "use a file with the state dict of a network (safetensors or torch.save)"


@dataclass(frozen=True)
class Weights:
    """Content of a weight file.

    Attributes:
        state: keys of the network, without prefixes, to tensors on the CPU, all finite.
        top1: accuracy stated in the file, in percent; None if there is none.
        epoch: number of epochs stated in the file; None if there is none.
        container: format of the file ("safetensors", "RepDistiller", "mdistiller", ...).
        digest: SHA-256 of the file, 64 hex digits.
        arch: name of the network stated in the file; None if there is none.
    """

    state: dict[str, Tensor]
    top1: float | None
    epoch: int | None
    container: str
    digest: str
    arch: str | None


def load_weights(path: str | Path, role: Role = "student") -> Weights:
    """Reads a weight file.

    Args:
        path: a ``.safetensors`` file, or one written by ``torch.save``, of any name.
        role: which network of a file with student and teacher.

    Raises:
        CheckpointError: missing, not a weight file, damaged, unsafe, without weights, or with
            weights that are not finite.
    """
    path = Path(path)
    _check_file(path)
    if path.suffix == ".safetensors":
        state, facts = _read_safetensors(path)
        container = "safetensors"
    else:
        found = _read_torch(path)
        state, facts = _unwrap(found, path)
        container = _container(facts, state)
        state = _select_role(state, role, path)
    _check_dense(state, path)
    _check_finite(state, path)
    return Weights(state, _top1(facts), _epoch(facts), container, file_digest(path), _arch(facts))


def fit_weights(model: nn.Module, weights: Weights, path: str | Path, arch: str) -> None:
    """Loads ``weights`` into ``model``; all keys and shapes must match.

    Keys of ResNet-18 and -34 with ImageNet's names, as CTKD saves them, are renamed.

    Args:
        model: the network; changed only if everything matches.
        weights: from ``load_weights``.
        path: the file, for the message.
        arch: name of the network, for the message.

    Raises:
        CheckpointError: wrong number of classes, or wrong architecture.
    """
    expected = _shapes(model.state_dict())
    state = weights.state
    if arch in ("resnet18", "resnet34") and "fc.weight" in state:
        log.info("%s: renamed fc to linear and downsample to shortcut for %s", path, arch)
        state = {_zoo_name(key): tensor for key, tensor in state.items()}
    found = _shapes(state)
    if found != expected:
        raise CheckpointError(_mismatch(found, expected, path, arch, weights.arch))
    model.load_state_dict(state)


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes network weights as safetensors, for other programs to load.

    Args:
        path: ends in ``.safetensors``; its folder is created.
        weights: a state dict.
        metadata: stored with them, such as the architecture and the accuracy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomic(path, sort_metadata(safetensors.torch.save(plain, metadata)))


def sort_metadata(content: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted by key.

    The library writes them in random order.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def guess_arch(weights: Weights) -> str | None:
    """The 32x32 network that these weights most likely belong to; None if they resemble none."""
    return _likely_architecture(_shapes(weights.state))


def _check_file(path: Path) -> None:
    """Refuses what is recognizable by its kind, size or first bytes."""
    if path.is_dir():
        raise CheckpointError(f"{path}: found a directory; give the weight file inside it")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; correct the path or download the weights")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"{path}: not a checkpoint, the file is empty (0 bytes); copy it again"
        )
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path}: not a checkpoint, found an HTML page (probably a failed download); download "
            "the file itself and check its size"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: not a checkpoint, found a git LFS pointer; run `git lfs pull` there"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {key: file.get_tensor(key) for key in file.offset_keys()}
            return state, file.metadata() or {}
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_plain_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and blocked:
            raise CheckpointError(
                f"{path}: refused, found the Python object {blocked[1]} (a whole pickled module, "
                f"or a file that runs code on loading); {REMEDY}"
            ) from error
        raise _damaged(path, error) from error


def _plain_globals() -> list[Any]:
    """Harmless classes in common weight files: numpy scalars (the decayed lr), Namespace."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    # numpy 1 and numpy 2 have different names for the same constructor
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *dtypes, *((scalar, name) for name in names), argparse.Namespace]


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = first_line(error)
    return CheckpointError(
        f"{path}: truncated or corrupt, or not a weight file ({path.stat().st_size:,} bytes; "
        f"{reason[:100]}); copy it again and compare sizes"
    )


def _unwrap(found: Any, path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The state dict in a file, and the other entries of the file."""
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: found {type(found).__name__}, not a dict; {REMEDY}")
    inner = [key for key in STATE_KEYS if isinstance(found.get(key), Mapping)]
    state = found[inner[0]] if inner else found
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        keys = ", ".join(sorted(map(str, found))) or "nothing"
        raise CheckpointError(f"{path}: no network weights in it, found {keys}; {REMEDY}")
    if any(key.startswith("module.") for key in state):
        log.info("%s: stripped the prefix 'module.' of DataParallel", path)
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state, found if inner else {}


def _select_role(state: dict[str, Tensor], role: Role, path: Path) -> dict[str, Tensor]:
    """The keys of one network, if the file has student and teacher."""
    if not any(key.startswith(("student.", "teacher.")) for key in state):
        return state
    prefix = f"{role}."
    chosen = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    if not chosen:
        heads = ", ".join(sorted({key.partition(".")[0] for key in state}))
        raise CheckpointError(f"{path}: contains no {role}, found {heads}; choose another file")
    log.info("%s: extracted the %s from a file with both networks", path, role)
    return chosen


def _container(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """The project whose format it is; ``state`` still has the prefixes of the roles."""
    if any(key.startswith(("student.", "teacher.")) for key in state) or set(facts) == {"model"}:
        return "mdistiller"
    marks = {"model_state": "pycls", "state_dict": "timm", "args": "torchdistill"}
    for key, container in marks.items():
        if key in facts:
            return container
    return "RepDistiller" if facts else "state dict"


def _top1(facts: Mapping[str, Any]) -> float | None:
    """Percent; mdistiller writes -1 before its first evaluation."""
    for key in ("top1", "accuracy", "best_acc"):
        top1 = _number(facts.get(key))
        if top1 is not None and top1 >= 0:
            return top1
    return None


def _epoch(facts: Mapping[str, Any]) -> int | None:
    epoch = _number(facts.get("epoch"))
    return None if epoch is None else int(epoch)


def _number(value: Any) -> float | None:
    """A finite number, or a tensor of one; other projects use these keys for other things too."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _arch(facts: Mapping[str, Any]) -> str | None:
    return str(facts["arch"]) if "arch" in facts else None


def _check_dense(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that are not dense arrays of numbers."""
    for key, tensor in state.items():
        kind = _find_oddity(tensor)
        if kind:
            raise CheckpointError(
                f"{path}: tensor {key} is {kind}, not a dense array of numbers; save the weights "
                f"as they are trained (dense, on the CPU, in float32 or float16)"
            )


def _find_oddity(tensor: Tensor) -> str:
    """Why a tensor is not a dense array of numbers; empty if it is one."""
    if isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
        return "not initialized"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else f"sparse ({tensor.layout})"
    if tensor.is_quantized:
        return "quantized"
    if tensor.device.type == "meta":
        return "without values (on the meta device)"
    if tensor.dtype not in _DTYPES:
        return f"of type {tensor.dtype}"
    # A billion elements can share four bytes: a small file that would fill the memory.
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return "overlapping with itself"
    return ""


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path}: tensor {key} has values that are not finite (NaN or Inf), so its "
                "training diverged; use an earlier checkpoint"
            )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _zoo_name(key: str) -> str:
    return re.sub(r"^fc\.", "linear.", key.replace(".downsample.", ".shortcut."))


def _mismatch(
    found: Shapes, expected: Shapes, path: str | Path, arch: str, claimed: str | None
) -> str:
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    misshapen = [key for key in found if key in expected and found[key] != expected[key]]
    if not missing and not unexpected and _is_classifier(misshapen, found, expected):
        return _class_mismatch(misshapen[0], found, expected, path)
    listed = "\n".join(
        f"  {len(keys)} {kind}{': ' if keys else ''}{', '.join(map(str, keys[:3]))}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", [f"{k} {found[k]} for {expected[k]}" for k in misshapen]),
        )
    )
    return f"{path}: weights do not fit {arch}\n{listed}\n{_advice(found, arch, claimed)}"


def _advice(found: Shapes, arch: str, claimed: str | None) -> str:
    guess = claimed if claimed not in (None, arch) else _likely_architecture(found)
    if guess == arch or (guess is None and claimed == arch):
        return (
            f"the file is a modified {arch} (other layers, widths, channels or image size) or "
            f"incomplete; choose another file"
        )
    if guess is None:
        return "the file matches none of the 32x32 networks; choose another network or file"
    return f"the file looks like {guess}; choose that network or another file"


def _is_classifier(misshapen: list[str], found: Shapes, expected: Shapes) -> bool:
    """Whether only the number of outputs of one layer differs: it must be the classifier."""
    layers = {key.rpartition(".")[0] for key in misshapen}
    return len(layers) == 1 and all(found[key][1:] == expected[key][1:] for key in misshapen)


def _class_mismatch(key: str, found: Shapes, expected: Shapes, path: str | Path) -> str:
    return (
        f"{path}: file has {found[key][0]} classes, dataset has {expected[key][0]} "
        f"({key} is {found[key]} in the file, {expected[key]} in the network); "
        "choose weights trained on this dataset"
    )


def _likely_architecture(found: Shapes) -> str | None:
    """The 32x32 network that shares the most tensors with the file, at least half of them."""
    body = set(found.items())

    def overlap(name: str) -> float:
        with torch.device("meta"):
            candidate = set(_shapes(getattr(cifar, name)(num_classes=1).state_dict()).items())
        return len(body & candidate) / len(body | candidate)

    scores = {name: overlap(name) for name in cifar.__all__}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] >= 0.5 else None
