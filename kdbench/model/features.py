"""Feature maps of any network, from kdbench, timm or torchvision, by one function."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError
from kdbench.outputs import Features, NetworkOutput


class FeatureNetwork(nn.Module):
    """A network that returns its feature maps; base class of the 32x32 networks."""

    def forward_features(self, images: Tensor, preacts: bool = False) -> NetworkOutput:
        """Logits, feature maps and pooled vector of ``images``.

        Args:
            images: [B, C, H, W], normalized.
            preacts: also return the maps before their activation; f0 is the same in both.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of ``images`` [B, C, H, W]."""
        return self.forward_features(images).logits


class WithFeatures(nn.Module):
    """A network that returns ``NetworkOutput``, with features, instead of logits.

    Args:
        network: shares its parameters with this module.
        preacts: also return the maps before their activation.
    """

    def __init__(self, network: nn.Module, preacts: bool) -> None:
        super().__init__()
        self.network, self.preacts = network, preacts

    def forward(self, images: Tensor) -> NetworkOutput:
        """Logits of ``images`` [B, C, H, W], with features."""
        return features(self.network, images, self.preacts)


def features(model: nn.Module, images: Tensor, preacts: bool = False) -> NetworkOutput:
    """Feature maps, pooled vector and logits of ``images`` from one forward pass.

    The 32x32 networks define their maps themselves. For timm models they are those of
    ``forward_intermediates``: one per stage, or per block of a transformer. For other
    convolutional networks they are the last map of every resolution.

    Args:
        model: a network from ``load_model``, in any mode.
        images: [B, C, H, W], normalized.
        preacts: also return the maps before their activation; only for the 32x32 networks.

    Returns:
        Logits equal to ``model(images)``, with features.

    Raises:
        ConfigError: this network has no such features.
    """
    if isinstance(model, FeatureNetwork):
        return model.forward_features(images, preacts)
    if preacts:
        raise ConfigError(
            f"pre-activation features: {type(model).__name__} has none, only the 32x32 networks "
            "of kdbench.model.cifar do; use preacts=False or choose one of those"
        )
    if hasattr(model, "forward_intermediates"):
        return _timm_features(model, images)
    return _convolutional_features(model, images)


def _timm_features(model: Any, images: Tensor) -> NetworkOutput:
    final, maps = model.forward_intermediates(images)
    classifier = model.get_classifier()
    if isinstance(classifier, tuple):  # distilled transformers have two heads
        classifier = classifier[0]
    inputs: list[Tensor] = []
    with classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
        logits = model.forward_head(final)
    return NetworkOutput(logits, Features(tuple(maps), inputs[0].flatten(1)))


def _convolutional_features(model: nn.Module, images: Tensor) -> NetworkOutput:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears or _is_token_model(model):
        raise ConfigError(
            f"features of {type(model).__name__}: found no feature maps followed by a linear "
            "classifier; use a convolutional network, or the timm:NAME model of the same family"
        )
    classifier = linears[-1]
    inputs: list[Tensor] = []
    by_size: dict[tuple[int, ...], Tensor] = {}

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            by_size[tuple(output.shape[2:])] = output

    with ExitStack() as hooks:
        for stage in _stages(model, classifier):
            hooks.enter_context(stage.register_forward_hook(keep))
        hooks.enter_context(
            classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        )
        logits = model(images)
    return NetworkOutput(logits, Features(tuple(by_size.values()), inputs[0]))


def _stages(model: nn.Module, classifier: nn.Linear) -> Iterator[nn.Module]:
    """The layers before the head: children, and the items of sequences among them."""
    for child in model.children():
        if any(module is classifier for module in child.modules()):
            continue
        layers = child if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
        yield from (layer for layer in layers if not isinstance(layer, nn.AdaptiveAvgPool2d))


def _is_token_model(model: nn.Module) -> bool:
    """Whether activations are tokens or channels-last, which only look like feature maps."""
    from torchvision.models import SwinTransformer, VisionTransformer

    return isinstance(model, SwinTransformer | VisionTransformer)


@torch.no_grad()
def example_output(
    network: nn.Module, image_shape: tuple[int, int, int], preacts: bool
) -> NetworkOutput:
    """What a network shows of a batch, for the shapes alone; nothing of it is computed or moved.

    Args:
        network: in any mode; stays as it is, its running statistics too.
        image_shape: (C, H, W).
        preacts: also return the maps before their activation.

    Returns:
        Tensors on the meta device, of two images.
    """
    probe = copy.deepcopy(network).to("meta").eval()
    try:
        return features(probe, torch.zeros(2, *image_shape, device="meta"), preacts)
    except NotImplementedError:  # an operator that this device does not have
        probe = copy.deepcopy(network).cpu().eval()
        found = features(probe, torch.zeros(2, *image_shape), preacts)
        return found.map(lambda tensor: tensor.to("meta"))
