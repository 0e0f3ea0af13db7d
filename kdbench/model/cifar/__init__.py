"""The 32x32 networks of the distillation literature, listed in ``__all__``.

Each is ``name(num_classes, in_channels=3)`` and takes images of any size >= 8x8. State-dict keys
and logits agree with RepDistiller and mdistiller, so their weight files can be loaded.
"""

from kdbench.model.cifar.mobilenetv2 import mobilenetv2
from kdbench.model.cifar.resnet import (
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from kdbench.model.cifar.resnet_imagenet import resnet18, resnet34, resnet50
from kdbench.model.cifar.shufflenetv1 import shufflenetv1
from kdbench.model.cifar.shufflenetv2 import shufflenetv2
from kdbench.model.cifar.vgg import vgg8, vgg11, vgg13, vgg16, vgg19
from kdbench.model.cifar.wrn import wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "mobilenetv2",
    "resnet8",
    "resnet8x4",
    "resnet14",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "shufflenetv1",
    "shufflenetv2",
    "vgg8",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
]
