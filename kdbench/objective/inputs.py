"""What an objective takes from other people's loops, and what it says of everything else."""

from collections.abc import Collection

import torch
from torch import Tensor

from kdbench.errors import NumericalError
from kdbench.outputs import NetworkOutput, Outputs

LOOK_EVERY = 100  # calls between two looks at values on an accelerator, which must be waited for


def check_logits(name: str, logits: Tensor) -> None:
    """Raises ValueError unless ``logits`` are [B, K] numbers with B >= 1 and K >= 2."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point numbers [B, K], found {logits.dtype} "
            f"{tuple(logits.shape)}; a sequence or map is flattened to one row per prediction"
        )
    if logits.shape[0] == 0:
        raise ValueError(f"{name} {tuple(logits.shape)} is an empty batch; leave it out")
    if logits.shape[1] < 2:
        raise ValueError(
            f"{name} {tuple(logits.shape)} has one class; temperatures need at least two (a single "
            f"logit z of a binary problem is the two logits 0 and z)"
        )


def check_targets(targets: Tensor, logits: Tensor, needs_labels: list[str]) -> None:
    """Raises ValueError unless ``targets`` fit.

    Args:
        targets: [B] int64 labels, or [B, K] probabilities as mixup and label smoothing make them.
        logits: [B, K].
        needs_labels: parts of the objective that cannot do with probabilities.
    """
    if targets.is_floating_point() and targets.shape == logits.shape:
        if needs_labels:
            raise ValueError(
                f"targets are probabilities {tuple(targets.shape)}, as mixup makes them, but "
                f"{', '.join(needs_labels)} need one label for each sample: int64 "
                f"[{len(logits)}]; leave mixup out, or choose a loss that takes no labels, as kd"
            )
        return
    if targets.dtype != torch.int64 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"targets must be int64 labels [{len(logits)}] or probabilities {tuple(logits.shape)}, "
            f"found {targets.dtype} {tuple(targets.shape)}"
        )


def check_features(outputs: Outputs, needs: Collection[str], readers: list[str]) -> None:
    """Raises ValueError unless both networks show the features that are needed.

    Args:
        outputs: with a teacher.
        needs: has "features", "preacts" or both.
        readers: parts of the objective that need them.
    """
    assert outputs.teacher is not None
    for name in ("teacher", "student"):
        output: NetworkOutput = getattr(outputs, name)
        if output.features is None:
            raise ValueError(
                f"{', '.join(readers)} need the {name}'s features, found None; take "
                f"kdbench.model.features.features(model, images) for its output"
            )
        if "preacts" in needs and output.features.preacts is None:
            raise ValueError(
                f"{', '.join(readers)} need the {name}'s maps before their activation, found "
                f"None; take kdbench.model.features.features(model, images, preacts=True)"
            )


def check_index(index: Tensor | None, logits: Tensor, readers: list[str]) -> None:
    """Raises ValueError unless there is one position for each row of ``logits``.

    Args:
        index: [B] int64.
        logits: [B, K].
        readers: parts of the objective that need it.
    """
    if index is None or index.dtype != torch.int64 or index.shape != logits.shape[:1]:
        found = "None" if index is None else f"{index.dtype} {tuple(index.shape)}"
        raise ValueError(
            f"{', '.join(readers)} need the index of each sample, int64 [{len(logits)}], found "
            f"{found}; give Outputs(..., index=index)"
        )


def check_finite(name: str, logits: Tensor, call: int) -> None:
    """Raises NumericalError for NaN and infinity; on accelerators only now and then.

    Args:
        name: of the argument.
        logits: [B, K].
        call: which one it is, from 0.
    """
    if not _may_look(logits.device, call):
        return
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise NumericalError(
            f"{name} has {bad} of {logits.numel()} values that are not finite: look at the "
            f"teacher's weights and images, and at its precision"
        )


def _may_look(device: torch.device, call: int) -> bool:
    if device.type == "cpu":
        return True
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return call % LOOK_EVERY == 0 and not captured
