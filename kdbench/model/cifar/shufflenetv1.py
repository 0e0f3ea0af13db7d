"""ShuffleNetV1 with three groups for 32x32 images.

Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
Devices", CVPR 2018. As in the distillation zoos (RepDistiller, mdistiller), and unlike the paper:
a 1x1 stem, and a ReLU after the depthwise convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.model.cifar.base import Block, conv1x1, global_average, run_stages, show_features
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import NetworkOutput

GROUPS = 3
STEM = 24


class Unit(Block):
    """Grouped 1x1, shuffle, 3x3 depthwise and grouped 1x1 convolution around a shortcut.

    With stride 2 the shortcut is average-pooled and concatenated instead of added.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.groups = 1 if in_channels == STEM else GROUPS  # too few channels to group
        out = channels - in_channels if stride == 2 else channels
        mid = out // 4
        self.conv1 = nn.Conv2d(in_channels, mid, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, padding=1, groups=mid, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, out, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def preactivation(self, x: Tensor) -> Tensor:
        """Branch and shortcut, added or concatenated."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.conv2(F.channel_shuffle(out, self.groups))
        out = F.relu(self.bn2(out), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat((out, F.avg_pool2d(x, 3, stride=2, padding=1)), dim=1)


class ShuffleNetV1(FeatureNetwork):
    """Stem at full size and three stages at half, quarter and eighth size.

    Features: f0 after the stem, f1 to f3 after the stages (preacts: before their last ReLU).
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(4, STEM, 240)
        self.layer2 = _stage(8, 240, 480)
        self.layer3 = _stage(4, 480, 960)
        self.linear = nn.Linear(960, num_classes)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        stem = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x, maps, before = run_stages(stem, (self.layer1, self.layer2, self.layer3), preacts)
        pooled = global_average(x)
        return NetworkOutput(self.linear(pooled), show_features(stem, maps, before, pooled))


def _stage(num_units: int, in_channels: int, channels: int) -> nn.Sequential:
    first = Unit(in_channels, channels, stride=2)
    return nn.Sequential(first, *(Unit(channels, channels, stride=1) for _ in range(num_units - 1)))


def shufflenetv1(num_classes: int, in_channels: int = 3) -> ShuffleNetV1:
    """ShuffleNetV1, three groups, 0.95 M parameters."""
    return ShuffleNetV1(num_classes, in_channels)
