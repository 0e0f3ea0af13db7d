"""VGG networks with batch normalization for 32x32 images and a single linear classifier.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015; block layout and names are those of the distillation zoos (RepDistiller,
mdistiller).
"""

import torch.nn.functional as F
from torch import Tensor, fx, nn

from kdbench.model.cifar.base import global_average, init_classifier, init_convolutions
from kdbench.model.features import FeatureNetwork
from kdbench.outputs import Features, NetworkOutput

CHANNELS = (64, 128, 256, 512, 512)


class VGG(FeatureNetwork):
    """Five blocks of 3x3 convolutions with bias, BN and ReLU.

    Features: f0 to f4 after the blocks (preacts: f1 to f4 before the last ReLU of their block).
    """

    def __init__(
        self, num_convs: tuple[int, int, int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        inputs = (in_channels, *CHANNELS[:-1])
        blocks = [_block(*sizes) for sizes in zip(num_convs, inputs, CHANNELS, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = nn.Linear(CHANNELS[-1], num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """See ``FeatureNetwork.forward_features``."""
        x = F.relu(self.block0(images), inplace=True)
        maps, before = [x], [x]
        for index, block in enumerate((self.block1, self.block2, self.block3, self.block4)):
            raw = block(F.max_pool2d(x, 2) if index < 3 else _pool_large(x, images.shape[2]))
            x = F.relu(raw, inplace=not preacts)
            maps.append(x)
            before.append(raw)
        pooled = global_average(x)
        found = Features(tuple(maps), pooled, tuple(before) if preacts else None)
        return NetworkOutput(self.classifier(pooled), found)


# A leaf for tracing, because a traced branch cannot depend on the image size.
@fx.wrap
def _pool_large(maps: Tensor, image_size: int) -> Tensor:
    """As in the zoos, pools a fourth time only for 64x64 images, so that 32x32 ends at 4x4."""
    return F.max_pool2d(maps, 2) if image_size == 64 else maps


def _block(num_convs: int, in_channels: int, channels: int) -> nn.Sequential:
    """Convolutions, each with BN and ReLU, but for the last ReLU, which the network applies."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


def vgg8(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-8, 4.0 M parameters."""
    return VGG((1, 1, 1, 1, 1), num_classes, in_channels)


def vgg11(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-11, 9.3 M parameters."""
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels)


def vgg13(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-13, 9.5 M parameters."""
    return VGG((2, 2, 2, 2, 2), num_classes, in_channels)


def vgg16(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-16, 14.8 M parameters."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-19, 20.1 M parameters."""
    return VGG((2, 2, 4, 4, 4), num_classes, in_channels)
