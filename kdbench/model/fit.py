"""Checks before training that a network accepts the images of a dataset."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError, first_line


def require_fit(make: Callable[[], nn.Module], shape: tuple[int, int, int], classes: int) -> None:
    """Refuses a network that fails on images of this shape, or whose logits have a wrong shape.

    Logits [B, 1] would silently be broadcast against [B, K].

    Args:
        make: builds the network; called with torch's meta device, where nothing is computed, and
            if that fails once more without.
        shape: channels, height and width of an image, pixels.
        classes: K.

    Raises:
        ConfigError: it does not fit; the message has the layer and the sizes.
    """
    try:
        with torch.device("meta"):
            network = make()
            found = _forward(network, shape)
    except Exception:  # not every operator supports this device
        network = make()
        found = _forward_or_refuse(network, shape)
    if isinstance(found, Tensor) and tuple(found.shape) != (2, classes):
        raise ConfigError(
            f"{type(network).__name__} returns logits of shape {tuple(found.shape)} for 2 images, "
            f"but dataset.num_classes={classes} needs {(2, classes)}; choose another network, or "
            f"correct its classifier"
        )


def _forward_or_refuse(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    layers: list[str] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: layers.append(name))
    try:
        return _forward(network, shape)
    except Exception as error:
        where = f"in or after its layer {layers[-1]}" if layers else "before its first layer"
        reason = first_line(error)
        raise ConfigError(
            f"{type(network).__name__} does not accept images of {shape[0]} x {shape[1]} x "
            f"{shape[2]} (dataset.channels, dataset.image_size={shape[1]}): it fails {where}: "
            f"{reason}; choose a larger dataset.image_size or another network"
        ) from error


@torch.no_grad()
def _forward(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """The output for two images of zeros."""
    return network.eval()(torch.zeros(2, *shape))
