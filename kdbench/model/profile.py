"""Cost of a network: parameters and multiply-adds; a forward pass without side effects."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, including frozen ones, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of the convolutions and linear layers for one image.

    Without bias, normalization, pooling and the products inside attention, as in the tables of the
    distillation literature.

    Args:
        model: not changed.
        in_channels: channels of the image, >= 1.
        image_size: height and width of the image in pixels, >= 1.
    """
    aten = torch.ops.aten
    with FlopCounterMode(display=False) as counter:
        forward_once(model, in_channels, image_size)
    flops = counter.get_flop_counts()["Global"]
    return sum(flops.get(op, 0) for op in (aten.convolution, aten.mm, aten.addmm)) // 2


def forward_once(model: nn.Module, in_channels: int, image_size: int) -> Tensor:
    """Logits [1, K] of one black image in evaluation mode, without gradient."""
    weight = next(model.parameters())
    image = weight.new_zeros(1, in_channels, image_size, image_size)
    with torch.no_grad(), evaluating(model):
        return model(image)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; restores the mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
