"""ShuffleNetV2 at width 1 for 32x32 images.

Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
ECCV 2018; a 1x1 stem and names as in the distillation zoos (RepDistiller, mdistiller).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.model.cifar.base import Block, conv1x1, global_average, run_stages, show_features
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import NetworkOutput


class SplitBlock(Block):
    """Concatenates two halves of the channels, then activates and shuffles them."""

    def activate(self, x: Tensor) -> Tensor:
        """ReLU and shuffle; ReLU does not change an untouched half, which is not negative."""
        return F.channel_shuffle(F.relu(x, inplace=True), 2)


class BasicBlock(SplitBlock):
    """Keeps the left half of the channels and sends the right half through a branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = _depthwise(half, stride=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def preactivation(self, x: Tensor) -> Tensor:
        """Left half unchanged, right half before its last ReLU; not yet shuffled."""
        left, right = x.chunk(2, dim=1)
        right = F.relu(self.bn1(self.conv1(right)), inplace=True)
        right = self.bn2(self.conv2(right))
        return torch.cat((left, self.bn3(self.conv3(right))), dim=1)


class DownBlock(SplitBlock):
    """Halves the size; both branches see all channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = _depthwise(in_channels, stride=2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _depthwise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def preactivation(self, x: Tensor) -> Tensor:
        """Both branches before their last ReLU; not yet shuffled."""
        left = self.bn1(self.conv1(x))
        left = self.bn2(self.conv2(left))
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn4(self.conv4(right))
        return torch.cat((left, self.bn5(self.conv5(right))), dim=1)


class ShuffleNetV2(FeatureNetwork):
    """Stem at full size, stages at half, quarter and eighth size, head of 1024 channels.

    Features: f0 after the stem, f1 to f3 after the stages (preacts: before the last ReLU and the
    shuffle of their last block).
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, 24)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = _stage(4, 24, 116)
        self.layer2 = _stage(8, 116, 232)
        self.layer3 = _stage(4, 232, 464)
        self.conv2 = conv1x1(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        stem = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x, maps, before = run_stages(stem, (self.layer1, self.layer2, self.layer3), preacts)
        head = F.relu(self.bn2(self.conv2(x)), inplace=True)
        pooled = global_average(head)
        return NetworkOutput(self.linear(pooled), show_features(stem, maps, before, pooled))


def _stage(num_blocks: int, in_channels: int, channels: int) -> nn.Sequential:
    first = DownBlock(in_channels, channels)
    return nn.Sequential(first, *(BasicBlock(channels) for _ in range(num_blocks - 1)))


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def shufflenetv2(num_classes: int, in_channels: int = 3) -> ShuffleNetV2:
    """ShuffleNetV2 at width 1, 1.36 M parameters."""
    return ShuffleNetV2(num_classes, in_channels)
