"""Input checks of an objective, for use in any training loop."""

from collections.abc import Collection

import torch
from torch import Tensor

from kdbench.errors import NumericalError
from kdbench.outputs import NetworkOutput, Outputs

CHECK_EVERY = 100  # calls between value checks on an accelerator, as they synchronize


def check_logits(name: str, logits: Tensor) -> None:
    """Raises ValueError unless ``logits`` are floating-point [B, K] with B >= 1 and K >= 2."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point [B, K], found {logits.dtype} {tuple(logits.shape)}; "
            f"flatten sequences or maps to one row per prediction"
        )
    if logits.shape[0] == 0:
        raise ValueError(f"{name} {tuple(logits.shape)} is an empty batch; skip it")
    if logits.shape[1] < 2:
        raise ValueError(
            f"{name} {tuple(logits.shape)} has one class; temperatures need at least two (for a "
            f"binary problem with a single logit z, pass the two logits 0 and z)"
        )


def check_targets(targets: Tensor, logits: Tensor, needs_labels: list[str]) -> None:
    """Raises ValueError unless ``targets`` match the logits and the objective.

    Args:
        targets: [B] int64 labels, or [B, K] probabilities as from mixup or label smoothing.
        logits: [B, K].
        needs_labels: parts of the objective that do not support probabilities.
    """
    if targets.is_floating_point() and targets.shape == logits.shape:
        if needs_labels:
            raise ValueError(
                f"targets are probabilities {tuple(targets.shape)}, as from mixup, but "
                f"{', '.join(needs_labels)} need one label per sample, int64 [{len(logits)}]; "
                f"disable mixup, or choose a loss that does not need labels, such as kd"
            )
        return
    if targets.dtype != torch.int64 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"targets must be int64 labels [{len(logits)}] or probabilities {tuple(logits.shape)}, "
            f"found {targets.dtype} {tuple(targets.shape)}"
        )


def check_features(outputs: Outputs, needs: Collection[str], readers: list[str]) -> None:
    """Raises ValueError unless both networks' outputs have the required features.

    Args:
        outputs: with a teacher.
        needs: contains "features", "preacts" or both.
        readers: parts of the objective that need them.
    """
    assert outputs.teacher is not None
    for name in ("teacher", "student"):
        output: NetworkOutput = getattr(outputs, name)
        if output.features is None:
            raise ValueError(
                f"{', '.join(readers)} need the {name}'s features, found None; compute its output "
                f"with kdbench.model.features.features(model, images)"
            )
        if "preacts" in needs and output.features.preacts is None:
            raise ValueError(
                f"{', '.join(readers)} need the {name}'s maps before activation, found None; "
                f"compute its output with kdbench.model.features.features(model, images, "
                f"preacts=True)"
            )


def check_index(index: Tensor | None, logits: Tensor, readers: list[str]) -> None:
    """Raises ValueError unless there is one index for each row of ``logits``.

    Args:
        index: [B] int64.
        logits: [B, K].
        readers: parts of the objective that need it.
    """
    if index is None or index.dtype != torch.int64 or index.shape != logits.shape[:1]:
        found = "None" if index is None else f"{index.dtype} {tuple(index.shape)}"
        raise ValueError(
            f"{', '.join(readers)} need the index of each sample, int64 [{len(logits)}], found "
            f"{found}; pass Outputs(..., index=index)"
        )


def check_finite(name: str, logits: Tensor, call: int) -> None:
    """Raises NumericalError for NaN and infinity; on accelerators only in some calls.

    Args:
        name: of the argument.
        logits: [B, K].
        call: number of the call, from 0.
    """
    if not _is_due(logits.device, call):
        return
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise NumericalError(
            f"{name} has {bad} of {logits.numel()} values that are not finite: check the "
            f"teacher's weights, inputs and precision"
        )


def _is_due(device: torch.device, call: int) -> bool:
    if device.type == "cpu":
        return True
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return call % CHECK_EVERY == 0 and not captured
