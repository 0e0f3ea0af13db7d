"""ResNets for 32x32 images: depth 6n + 2, and the four times wider variants.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with
projection shortcuts; layer names and the x4 widths are those of the distillation zoos
(RepDistiller, mdistiller).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.model.cifar.base import (
    Block,
    conv3x3,
    global_average,
    init_convolutions,
    projection,
    run_stages,
    show_features,
)
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import NetworkOutput

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


class BasicBlock(Block):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Sum of branch and shortcut."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)) + self.downsample(x)


class ResNet(FeatureNetwork):
    """Stem and three stages of ``num_blocks`` basic blocks at full, half and quarter size.

    Features: f0 after the stem, f1 to f3 after the stages (preacts: sums before their last ReLU).
    """

    def __init__(
        self, num_blocks: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        stem, first, second, third = widths
        self.conv1 = conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(num_blocks, stem, first, stride=1)
        self.layer2 = _stage(num_blocks, first, second, stride=2)
        self.layer3 = _stage(num_blocks, second, third, stride=2)
        self.fc = nn.Linear(third, num_classes)
        init_convolutions(self)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        stem = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x, maps, before = run_stages(stem, (self.layer1, self.layer2, self.layer3), preacts)
        pooled = global_average(x)
        return NetworkOutput(self.fc(pooled), show_features(stem, maps, before, pooled))


def _stage(num_blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(
        first, *(BasicBlock(channels, channels, stride=1) for _ in range(num_blocks - 1))
    )


def resnet8(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-8, 0.08 M parameters."""
    return ResNet(1, NARROW, num_classes, in_channels)


def resnet14(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-14, 0.18 M parameters."""
    return ResNet(2, NARROW, num_classes, in_channels)


def resnet20(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-20, 0.28 M parameters."""
    return ResNet(3, NARROW, num_classes, in_channels)


def resnet32(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-32, 0.47 M parameters."""
    return ResNet(5, NARROW, num_classes, in_channels)


def resnet44(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-44, 0.67 M parameters."""
    return ResNet(7, NARROW, num_classes, in_channels)


def resnet56(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-56, 0.86 M parameters."""
    return ResNet(9, NARROW, num_classes, in_channels)


def resnet110(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-110, 1.74 M parameters."""
    return ResNet(18, NARROW, num_classes, in_channels)


def resnet8x4(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-8 with four times the channels, 1.23 M parameters."""
    return ResNet(1, WIDE, num_classes, in_channels)


def resnet32x4(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-32 with four times the channels, 7.43 M parameters."""
    return ResNet(5, WIDE, num_classes, in_channels)
