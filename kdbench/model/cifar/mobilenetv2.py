"""MobileNetV2 at half width for 32x32 images.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. As in
the distillation zoos (RepDistiller, mdistiller): ReLU instead of ReLU6, a head of full width, an
expansion layer in every block, and total stride 16.
"""

from torch import Tensor, nn

from kdbench.model.cifar.base import (
    conv1x1,
    conv3x3,
    global_average,
    init_classifier,
    init_convolutions,
)
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import Features, NetworkOutput

# expansion, channels (half of the paper's), blocks, stride of the first block
LAYOUT = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
FEATURE_STAGES = (1, 2, 4, 6)  # as in the zoos


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution; a shortcut if shapes match."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            conv1x1(in_channels, hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv1x1(hidden, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], without activation."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(FeatureNetwork):
    """Stem with stride 2, seven stages, head of 1280 channels.

    Features: f0 after the stem, f1 to f4 after the stages in FEATURE_STAGES. These have no
    activation, so ``preacts`` are the same maps.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            conv3x3(in_channels, 16, stride=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        inputs = (16, *(channels for _, channels, _, _ in LAYOUT))
        self.blocks = nn.Sequential(
            *(_stage(wide, *row) for wide, row in zip(inputs, LAYOUT, strict=False))
        )
        self.conv2 = nn.Sequential(conv1x1(160, 1280), nn.BatchNorm2d(1280), nn.ReLU(inplace=True))
        linear = nn.Linear(1280, num_classes)
        self.classifier = nn.Sequential(linear)  # a Sequential for the key names of the zoos
        init_convolutions(self)
        init_classifier(linear)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        x = self.conv1(images)
        maps = [x]
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in FEATURE_STAGES:
                maps.append(x)
        pooled = global_average(self.conv2(x))
        found = Features(tuple(maps), pooled, tuple(maps) if preacts else None)
        return NetworkOutput(self.classifier(pooled), found)


def _stage(
    in_channels: int, expansion: int, channels: int, num_blocks: int, stride: int
) -> nn.Sequential:
    first = InvertedResidual(in_channels, channels, stride, expansion)
    others = (InvertedResidual(channels, channels, 1, expansion) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *others)


def mobilenetv2(num_classes: int, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 at half width, 0.81 M parameters."""
    return MobileNetV2(num_classes, in_channels)
