"""Loads a trained network to evaluate it on a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.config.build import build
from kdbench.config.choices import read_option
from kdbench.data.base import DataModule
from kdbench.digest import state_digest
from kdbench.errors import CheckpointError, ConfigError
from kdbench.model.checkpoint import Role, Weights, fit_weights, guess_arch, load_weights
from kdbench.model.compute import Compute
from kdbench.model.load import check_forward


@dataclass(frozen=True)
class WeightFile:
    """A weight file, and what is known about its network without reading it.

    Attributes:
        path: of a file for ``load_weights``.
        role: which network of a file with student and teacher.
        model: config of the network; None for one of ``load_model``, by name.
        arch: that name; None to read it from the file.
        digest: of the state dict; None if unknown.
    """

    path: Path
    role: Role = "student"
    model: Mapping[str, Any] | None = None
    arch: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights.

    Attributes:
        network: on the device, in evaluation mode.
        model: the config that it was built from.
        file: of its weights.
        digest: SHA-256 over its sorted state dict.
    """

    network: nn.Module
    model: Mapping[str, Any]
    file: Path
    digest: str

    def identity(self) -> dict[str, Any]:
        """Name, file and digest, for ``records.evaluation.Evaluation``."""
        return {
            "arch": self.model["arch"],
            "weights": str(self.file),
            "weights_digest": self.digest,
        }


def load_trained(source: WeightFile, data: DataModule, compute: Compute) -> TrainedNetwork:
    """Builds a network for the images and classes of a dataset, and loads its weights.

    Raises:
        ConfigError: the network is unknown, or not suited to these images.
        CheckpointError: the file is unreadable, does not fit, or has another digest.
    """
    weights = load_weights(source.path, source.role)
    model = source.model or _model_of(source, weights, data)
    if model["num_classes"] != data.num_classes:
        raise ConfigError(
            f"{source.path} was trained on {model['num_classes']} classes, but the dataset has "
            f"{data.num_classes}; choose the dataset that it was trained on"
        )
    # The file has all weights: do not load those that the training started from.
    network = build({**model, "weights": None})
    fit_weights(network, weights, source.path, model["arch"])
    digest = state_digest(network.state_dict())
    if source.digest not in (None, digest):
        raise CheckpointError(
            f"{source.path} does not have the weights of its run: their digest should be "
            f"{source.digest}, found {digest}; restore the file"
        )
    check_forward(network, data.image_shape[0], data.image_shape[1])
    return TrainedNetwork(
        compute.place(network.requires_grad_(False)).eval(), model, source.path, digest
    )


def count_confusions(logits: Tensor, targets: Tensor) -> list[list[int]]:
    """[K][K] number of samples by true class (row) and predicted class (column).

    Args:
        logits: [N, K].
        targets: [N].
    """
    classes = logits.shape[1]
    pairs = targets * classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).tolist()


def _model_of(source: WeightFile, weights: Weights, data: DataModule) -> dict[str, Any]:
    arch = source.arch or weights.arch
    if arch is None:
        guess = guess_arch(weights)
        raise ConfigError(
            f"{source.path} does not name its network; give the name with --arch (--teacher-arch "
            f"for that of --teacher)" + (f"; it looks like {guess}" if guess else "")
        )
    channels, size, _ = data.image_shape
    return {
        **read_option("student", "resnet8"),
        "arch": arch,
        "num_classes": data.num_classes,
        "in_channels": channels,
        "image_size": size,
    }
