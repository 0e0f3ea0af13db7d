"""Wide residual networks for 32x32 images, depth 6n + 4, with pre-activation blocks.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, without dropout; layer names
are those of the distillation zoos (RepDistiller, mdistiller).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.model.cifar.base import (
    conv1x1,
    conv3x3,
    global_average,
    init_convolutions,
    show_features,
)
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import NetworkOutput


class PreactBlock(nn.Module):
    """BN, ReLU and convolution, twice; if channels change, branch and shortcut share BN-ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        same = in_channels == channels
        self.convShortcut = None if same else conv1x1(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Raw sum, [B, C, H, W], normalized by the next block."""
        activated = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        return self.conv2(out) + shortcut


class Stage(nn.Module):
    """``num_blocks`` blocks, the first with the stride; a module for the key names of the zoos."""

    def __init__(self, num_blocks: int, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        first = PreactBlock(in_channels, channels, stride)
        others = (PreactBlock(channels, channels, stride=1) for _ in range(num_blocks - 1))
        self.layer = nn.Sequential(first, *others)

    @property
    def entry_norm(self) -> nn.BatchNorm2d:
        """The first BN of this stage, applied to its input."""
        return self.layer[0].bn1  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Raw output of the last block, [B, C, H, W]."""
        return self.layer(x)


class WideResNet(FeatureNetwork):
    """Stem of 16 channels and three stages of 16, 32 and 64 times ``width`` channels.

    Features: f0 is the output of the stem, f1 to f3 the raw outputs of the stages (preacts: after
    the next BN).
    """

    def __init__(self, num_blocks: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = Stage(num_blocks, 16, 16 * width, stride=1)
        self.block2 = Stage(num_blocks, 16 * width, 32 * width, stride=2)
        self.block3 = Stage(num_blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        stem = self.conv1(images)
        f1 = self.block1(stem)
        f2 = self.block2(f1)
        f3 = self.block3(f2)
        pooled = global_average(F.relu(self.bn1(f3), inplace=True))
        maps, before = [f1, f2, f3], None
        if preacts:
            norms = (self.block2.entry_norm, self.block3.entry_norm, self.bn1)
            before = [_normalize(norm, x) for norm, x in zip(norms, maps, strict=True)]
        return NetworkOutput(self.fc(pooled), show_features(stem, maps, before, pooled))


def _normalize(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``norm(x)`` without updating the running statistics a second time."""
    if not norm.training:
        return norm(x)
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def wrn_16_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-1, 0.18 M parameters."""
    return WideResNet(2, 1, num_classes, in_channels)


def wrn_16_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-2, 0.70 M parameters."""
    return WideResNet(2, 2, num_classes, in_channels)


def wrn_40_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-1, 0.57 M parameters."""
    return WideResNet(6, 1, num_classes, in_channels)


def wrn_40_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-2, 2.26 M parameters."""
    return WideResNet(6, 2, num_classes, in_channels)
