"""Whether a network takes the images of a dataset: found out before anything is trained."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError, first_line


def require_fit(make: Callable[[], nn.Module], shape: tuple[int, int, int], classes: int) -> None:
    """Refuses a network that fails on images of this shape, or answers with another one.

    Logits [B, 1] would be broadcast against [B, K] without a word.

    Args:
        make: the network; called with torch's device "meta", where nothing is computed, and once
            more without where that does not work.
        shape: channels, height and width of an image, pixels.
        classes: K.

    Raises:
        ConfigError: it does not fit; the message names the layer and the sizes.
    """
    try:
        with torch.device("meta"):
            network = make()
            found = _answer(network, shape)
    except Exception:  # not every operator knows this device
        network = make()
        found = _answer_or_refuse(network, shape)
    if isinstance(found, Tensor) and tuple(found.shape) != (2, classes):
        raise ConfigError(
            f"{type(network).__name__} answers 2 images with logits of shape "
            f"{tuple(found.shape)}, and dataset.num_classes={classes} needs {(2, classes)}; choose "
            f"another network, or correct its classifier"
        )


def _answer_or_refuse(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    layers: list[str] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: layers.append(name))
    try:
        return _answer(network, shape)
    except Exception as error:
        where = f"in or after its layer {layers[-1]}" if layers else "before its first layer"
        reason = first_line(error)
        raise ConfigError(
            f"{type(network).__name__} does not take images of {shape[0]} x {shape[1]} x "
            f"{shape[2]} (dataset.channels, dataset.image_size={shape[1]}): it fails {where}: "
            f"{reason}; choose a larger dataset.image_size or another network"
        ) from error


@torch.no_grad()
def _answer(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """The output for two images of zeros."""
    return network.eval()(torch.zeros(2, *shape))
