import pytest
import torch
from torch import nn

from kdbench.errors import ConfigError
from kdbench.model.fit import require_fit
from kdbench.model.load import load_model


def test_a_network_that_fits_is_built_once_on_the_meta_device():
    made = []

    def make():
        made.append(load_model("resnet8", 10))
        return made[-1]

    before = torch.random.get_rng_state()
    require_fit(make, (3, 8, 8), 10)
    (network,) = made
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_layer_and_the_sizes_are_named():
    with pytest.raises(ConfigError, match=r"image_size=4\).* layer block\d\.\d"):
        require_fit(lambda: load_model("vgg8", 10), (3, 4, 4), 10)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), r"\(2, 1\).*\(2, 10\)"),
        (lambda: nn.Conv2d(3, 10, 8), r"\(2, 10, 1, 1\)"),
    ],
)
def test_logits_of_another_shape_are_refused(make, found):
    with pytest.raises(ConfigError, match=found):
        require_fit(make, (3, 8, 8), 10)


def test_a_network_that_needs_real_tensors_is_tried_with_them():
    class Decides(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :10] if images.sum().item() == 0 else images

    require_fit(Decides, (3, 8, 8), 10)
