"""Shared parts of the 32x32 networks: blocks with pre-activations, stages, initialization."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.outputs import Features


class Block(nn.Module):
    """A residual unit that ends in an activation and can return its input, the pre-activation."""

    def preactivation(self, x: Tensor) -> Tensor:
        """The unit's output before its last activation."""
        raise NotImplementedError

    def activate(self, x: Tensor) -> Tensor:
        """The last activation; may overwrite ``x``."""
        return F.relu(x, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the unit, [B, C, H, W]."""
        return self.activate(self.preactivation(x))


def run_stages(
    x: Tensor, stages: Iterable[nn.Sequential], preacts: bool
) -> tuple[Tensor, list[Tensor], list[Tensor] | None]:
    """Runs ``x`` through the stages.

    Args:
        x: [B, C, H, W], output of the stem.
        stages: sequences of modules whose last one is a ``Block``.
        preacts: keep each map before the last activation of its stage too.

    Returns:
        The last output, the map of every stage, and the same before the activation (None unless
        wanted).
    """
    maps: list[Tensor] = []
    if not preacts:
        for stage in stages:
            maps.append(x := stage(x))
        return x, maps, None
    before = []
    for stage in stages:
        x, raw = _run_stage_preact(x, stage)
        maps.append(x)
        before.append(raw)
    return x, maps, before


def show_features(
    stem: Tensor, maps: list[Tensor], before: list[Tensor] | None, pooled: Tensor
) -> Features:
    """Features with the stem's output as the first map, before and after activations."""
    preacts = None if before is None else (stem, *before)
    return Features((stem, *maps), pooled, preacts)


def _run_stage_preact(x: Tensor, stage: nn.Sequential) -> tuple[Tensor, Tensor]:
    *blocks, last = stage
    assert isinstance(last, Block)
    for block in blocks:
        x = block(x)
    before = last.preactivation(x)
    return last.activate(before.clone()), before


def global_average(x: Tensor) -> Tensor:
    """Mean over height and width, [B, C, H, W] to [B, C]; any image size."""
    return x.mean(dim=(2, 3))


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with padding 1, without bias."""
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(in_channels, channels, 1, stride, bias=False)


def projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Shortcut of a residual block: 1x1 convolution and BN if the shape changes (option B)."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))


def init_convolutions(model: nn.Module) -> None:
    """Normal with variance 2 / (kernel area x out channels), bias 0; BN keeps its 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(linear: nn.Linear) -> None:
    """Normal with standard deviation 0.01, bias 0."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
