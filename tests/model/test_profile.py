import pytest
from torch import nn

from kdbench.model import cifar
from kdbench.model.load import load_model
from kdbench.model.profile import count_macs, count_parameters, evaluating

# at 100 classes and 3x32x32: parameters, multiply-adds of convolutions and linear layers
TABLE = {
    "resnet8": (83_892, 12_507_392),
    "resnet14": (181_108, 26_663_168),
    "resnet20": (278_324, 40_818_944),
    "resnet32": (472_756, 69_130_496),
    "resnet44": (667_188, 97_442_048),
    "resnet56": (861_620, 125_753_600),
    "resnet110": (1_736_564, 253_155_584),
    "resnet8x4": (1_233_540, 177_071_104),
    "resnet32x4": (7_433_860, 1_083_040_768),
    "wrn_16_1": (180_916, 26_663_168),
    "wrn_16_2": (703_284, 101_118_464),
    "wrn_40_1": (569_780, 83_286_272),
    "wrn_40_2": (2_255_156, 327_610_880),
    "vgg8": (3_965_028, 96_192_512),
    "vgg11": (9_277_284, 209_438_720),
    "vgg13": (9_462_180, 284_936_192),
    "vgg16": (14_774_436, 398_182_400),
    "vgg19": (20_086_692, 511_428_608),
    "mobilenetv2": (812_836, 6_523_648),
    "shufflenetv1": (949_258, 38_691_456),
    "shufflenetv2": (1_355_528, 44_504_448),
    "resnet18": (11_220_132, 555_468_800),
    "resnet34": (21_328_292, 1_159_448_576),
    "resnet50": (23_705_252, 1_298_014_208),
}
TEN_CLASSES = {
    "resnet8": 78_042,
    "resnet20": 272_474,
    "resnet56": 855_770,
    "resnet110": 1_730_714,
    "resnet8x4": 1_210_410,
    "resnet32x4": 7_410_730,
    "wrn_16_1": 175_066,
    "wrn_40_2": 2_243_546,
    "vgg8": 3_918_858,
    "mobilenetv2": 697_546,
}


def test_the_table_is_complete():
    assert set(TABLE) == set(cifar.__all__)


@pytest.mark.parametrize("arch", TABLE)
def test_parameters_and_macs_are_the_published_ones(arch):
    model = getattr(cifar, arch)(num_classes=100)
    assert (count_parameters(model), count_macs(model, 3, 32)) == TABLE[arch]


@pytest.mark.parametrize("arch", TEN_CLASSES)
def test_parameters_at_ten_classes(arch):
    assert count_parameters(getattr(cifar, arch)(num_classes=10)) == TEN_CLASSES[arch]


def test_imagenet_resnet18_of_torchvision():
    model = load_model("torchvision:resnet18", num_classes=1000)
    assert count_parameters(model) == 11_689_512
    assert count_macs(model, 3, 224) == 1_814_073_344


def test_evaluating_restores_every_mode():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model.train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]
