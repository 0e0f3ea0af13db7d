"""Whether a network takes the images of a dataset: found out before anything is trained."""

import copy

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError


def require_fit(network: nn.Module, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Refuses a network that fails on images of this shape, or answers with another one.

    Logits [B, 1] would be broadcast against [B, K] without a word.

    Args:
        network: stays as it is.
        shape: channels, height and width of an image, pixels.
        num_classes: K.

    Returns:
        The network.

    Raises:
        ConfigError: it does not fit; the message names the layer and the sizes.
    """
    try:
        found = _answer(network, shape, torch.device("meta"))  # computes nothing
    except Exception:  # not every operator knows this device
        found = _answer_or_refuse(network, shape)
    if isinstance(found, Tensor) and tuple(found.shape) != (2, num_classes):
        raise ConfigError(
            f"{type(network).__name__} answers 2 images with logits of shape "
            f"{tuple(found.shape)}, and dataset.num_classes={num_classes} needs "
            f"{(2, num_classes)}; choose another network, or correct its classifier"
        )
    return network


def _answer_or_refuse(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    layers: list[str] = []
    try:
        return _answer(network, shape, torch.device("cpu"), layers)
    except Exception as error:
        where = f"in or after its layer {layers[-1]}" if layers else "before its first layer"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{type(network).__name__} does not take images of {shape[0]} x {shape[1]} x "
            f"{shape[2]} (dataset.channels, dataset.image_size={shape[1]}): it fails {where}: "
            f"{reason}; choose a larger dataset.image_size or another network"
        ) from error


@torch.no_grad()
def _answer(
    network: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device,
    layers: list[str] | None = None,
) -> Tensor:
    """What a copy says to two images of zeros; ``layers`` gets the names of those it asked."""
    probe = copy.deepcopy(network).to(device).eval()
    for name, module in probe.named_modules():
        if layers is not None and not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: layers.append(name))
    return probe(torch.zeros(2, *shape, device=device))
