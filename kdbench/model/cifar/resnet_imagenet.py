"""ImageNet's ResNet-18, -34 and -50 with a stem for 32x32 images: 3x3, stride 1, no pooling.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1; layer names
are those of the distillation zoos (RepDistiller, mdistiller).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.model.cifar.base import (
    Block,
    conv1x1,
    conv3x3,
    global_average,
    init_convolutions,
    projection,
    run_stages,
    show_features,
)
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import NetworkOutput


class BasicBlock(Block):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = projection(in_channels, channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Sum of branch and shortcut."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)) + self.shortcut(x)


class Bottleneck(Block):
    """1x1, 3x3 (with the stride) and 1x1 convolution around a shortcut; four times wider out."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, self.expansion * channels)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.shortcut = projection(in_channels, self.expansion * channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Sum of branch and shortcut."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class ResNet(FeatureNetwork):
    """Stem of 64 channels and four stages at full, half, quarter and eighth size.

    Features: f0 after the stem, f1 to f4 after the stages (preacts: sums before their last ReLU).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        n1, n2, n3, n4 = num_blocks
        out = block.expansion
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, n1, 64, 64, stride=1)
        self.layer2 = _stage(block, n2, out * 64, 128, stride=2)
        self.layer3 = _stage(block, n3, out * 128, 256, stride=2)
        self.layer4 = _stage(block, n4, out * 256, 512, stride=2)
        self.linear = nn.Linear(out * 512, num_classes)
        init_convolutions(self)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        stem = F.relu(self.bn1(self.conv1(images)), inplace=True)
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        x, maps, before = run_stages(stem, stages, preacts)
        pooled = global_average(x)
        return NetworkOutput(self.linear(pooled), show_features(stem, maps, before, pooled))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    num_blocks: int,
    in_channels: int,
    channels: int,
    stride: int,
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    wide = block.expansion * channels
    return nn.Sequential(first, *(block(wide, channels, stride=1) for _ in range(num_blocks - 1)))


def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-18 at 32x32, 11.2 M parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet34(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-34 at 32x32, 21.3 M parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels)


def resnet50(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-50 at 32x32, 23.7 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)
