import pytest
import torch

from kdbench.errors import ConfigError
from kdbench.model.features import features
from kdbench.model.load import load_model


def run(arch, size, **options):
    model = load_model(arch, num_classes=7, image_size=size, **options).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found = features(model, images)
        torch.testing.assert_close(found.logits, model(images), rtol=0, atol=0)
    return model, found


def test_own_networks_define_their_features():
    model, found = run("resnet8", 32)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(found.features.pooled), found.logits)
        before = features(model, torch.randn(2, 3, 32, 32), preacts=True)
    assert [m.shape[1] for m in before.features.preacts] == [16, 16, 32, 64]


def test_timm_convolutional_network():
    model, found = run("timm:test_resnet", 32)
    assert [m.shape[-1] for m in found.features.maps] == [16, 8, 4, 2, 1]
    torch.testing.assert_close(model.fc(found.features.pooled), found.logits)


def test_timm_transformer_gives_its_tokens_as_maps():
    model, found = run("timm:test_vit", 32, patch_size=4)
    assert [tuple(m.shape) for m in found.features.maps] == [(2, 64, 8, 8)] * 6
    torch.testing.assert_close(model.head(found.features.pooled), found.logits)


def test_torchvision_gives_the_last_map_of_every_resolution():
    model, found = run("torchvision:resnet18", 64)
    shapes = [tuple(m.shape[1:]) for m in found.features.maps]
    assert shapes == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    torch.testing.assert_close(found.features.pooled, found.features.maps[-1].mean(dim=(2, 3)))
    torch.testing.assert_close(model.fc(found.features.pooled), found.logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_head_is_not_a_stage():
    _, found = run("torchvision:mobilenet_v3_small", 64)
    assert [m.shape[-1] for m in found.features.maps] == [32, 16, 8, 4, 2]


def test_gradients_flow_through_hooked_features():
    model = load_model("torchvision:resnet18", num_classes=7).train()
    features(model, torch.randn(2, 3, 64, 64)).features.maps[1].sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert model.layer4[0].conv1.weight.grad is None


def test_networks_without_such_features_are_refused():
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="pre-activation features: ResNet has none"):
        features(load_model("torchvision:resnet18", 7), images, preacts=True)
    with pytest.raises(ConfigError, match=r"SqueezeNet.*timm:NAME"):
        features(load_model("torchvision:squeezenet1_1", 7), images)
