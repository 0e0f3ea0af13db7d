"""``load_model``: any supported network by name, with or without weights."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdbench.errors import ConfigError, first_line
from kdbench.model import cifar
from kdbench.model.checkpoint import fit_weights, load_weights
from kdbench.model.profile import forward_once
from kdbench.words import nearest

# Options that make timm and torchvision open files or URLs, some of them as pickles.
_FETCHING = (
    *("pretrained", "pretrained_backbone", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("pretrained_strict", "checkpoint_path", "cache_dir", "weights_backbone"),
)


def load_model(
    arch: str,
    num_classes: int,
    weights: str | Path | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a network and optionally loads weights; never downloads anything.

    Example:
        >>> teacher = load_model("resnet56", num_classes=100, weights="resnet56.safetensors")
        >>> student = load_model("timm:vit_tiny_patch16_224", 100, image_size=32, patch_size=4)

    Args:
        arch: one of ``kdbench.model.cifar.__all__``, or ``timm:NAME``, or ``torchvision:NAME``.
        num_classes: outputs of the classifier, >= 1.
        weights: file that ``kdbench.model.checkpoint.load_weights`` reads; None leaves the
            network with its random initialization.
        in_channels: channels of the images, >= 1; torchvision's networks take 3 only.
        image_size: height and width of the images in pixels, for networks whose layout depends
            on it (transformers, mixers); the others take any size. None means the network's own
            default.
        options: further arguments of timm's or torchvision's constructor, e.g. ``patch_size``.

    Raises:
        ConfigError: unknown name, or arguments that this network does not take.
        CheckpointError: the weight file cannot be read or does not fit.
    """
    fetching = [name for name in options if name in _FETCHING]
    if fetching:
        raise ConfigError(
            f"arch={arch!r} takes no option {', '.join(fetching)}: nothing is downloaded here, and "
            f"files are read by weights=FILE only; remove it"
        )
    library, colon, name = arch.partition(":")
    if library == "timm" and colon:
        model = _timm_model(name, num_classes, in_channels, image_size, options)
    elif library == "torchvision" and colon:
        model = _torchvision_model(name, num_classes, in_channels, image_size, options)
    else:
        model = _cifar_model(arch, num_classes, in_channels, options)
    if weights is not None:
        fit_weights(model, load_weights(weights), weights, arch)
    return model


def check_forward(model: nn.Module, in_channels: int, image_size: int) -> None:
    """Runs one image through the network, without side effects.

    Raises:
        ConfigError: it fails for images of this shape; the message has the layer and its input.
    """
    entered = [("the first layer", f"{in_channels}x{image_size}x{image_size}")]

    def enter(module: nn.Module, args: Any) -> None:
        size = "x".join(map(str, args[0].shape[1:])) if args else "nothing"
        entered.append((f"{names[module]} ({type(module).__name__})", size))

    names = {module: name for name, module in model.named_modules()}
    handles = [module.register_forward_pre_hook(enter) for module in names if _is_leaf(module)]
    try:
        forward_once(model, in_channels, image_size)
    except (RuntimeError, ValueError, AssertionError) as error:
        layer, size = entered[-1]
        raise ConfigError(
            f"{type(model).__name__} does not accept images of "
            f"{in_channels}x{image_size}x{image_size}: it fails at or after layer {layer}, whose "
            f"input is {size} ({first_line(error)}); "
            "choose another network or another dataset"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _cifar_model(
    arch: str, num_classes: int, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    if arch not in cifar.__all__:
        raise ConfigError(
            f"{_unknown(f'arch={arch!r}', arch, cifar.__all__)}. Choose from the "
            f"{len(cifar.__all__)} networks of kdbench.model.cifar, timm:NAME and torchvision:NAME"
        )
    if options:
        raise ConfigError(
            f"arch={arch!r} takes no further options, found {', '.join(options)}; remove them, or "
            "use a timm:NAME or torchvision:NAME network"
        )
    return getattr(cifar, arch)(num_classes, in_channels)


def _timm_model(
    name: str, num_classes: int, in_channels: int, image_size: int | None, options: dict[str, Any]
) -> nn.Module:
    timm = importlib.import_module("timm")
    arch = f"timm:{name}"
    if not timm.is_model(name):
        raise ConfigError(f"{_unknown(f'arch={arch!r}', name, timm.list_models())} in timm")

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments
        )

    model = _build(create, arch, "img_size", image_size, options)
    _check_patches(model, arch)
    return model


def _torchvision_model(
    name: str, num_classes: int, in_channels: int, image_size: int | None, options: dict[str, Any]
) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    arch = f"torchvision:{name}"
    known = models.list_models(module=models)  # without detection, segmentation and video
    if name not in known:
        raise ConfigError(f"{_unknown(f'arch={arch!r}', name, known)} in torchvision")
    if in_channels != 3:
        raise ConfigError(
            f"arch={arch!r} takes images with 3 channels, the dataset has {in_channels}; "
            "use a timm:NAME or a 32x32 network"
        )

    def create(**arguments: Any) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=num_classes, **arguments)

    return _build(create, arch, "image_size", image_size, options)


def _build(
    create: Callable[..., nn.Module],
    arch: str,
    size_option: str,
    image_size: int | None,
    options: dict[str, Any],
) -> nn.Module:
    """Passes the image size only to networks that take it: other constructors would raise."""
    sized = {} if image_size is None else {size_option: image_size}
    try:
        try:
            return create(**sized | options)
        except TypeError as error:
            if not sized or f"'{size_option}'" not in str(error):
                raise
            return create(**options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        arguments = ", ".join(f"{key}={value}" for key, value in (sized | options).items())
        raise ConfigError(
            f"arch={arch!r} cannot be built with {arguments or 'its defaults'}: "
            f"{first_line(error)}; correct these options or choose another network"
        ) from error


def _check_patches(model: nn.Module, arch: str) -> None:
    """Refuses an image size that is not a multiple of the patch size: timm would crop it."""
    from timm.layers import PatchEmbed

    for module in model.modules():
        if not isinstance(module, PatchEmbed) or module.img_size is None:
            continue
        for size, patch in zip(module.img_size, module.patch_size, strict=True):
            if size % patch:
                raise ConfigError(
                    f"arch={arch!r}: image size {size} is not a multiple of the patch size {patch};"
                    f" set the option patch_size to a divisor of {size}"
                )


def _unknown(where: str, name: str, known: Sequence[str]) -> str:
    return (
        f"{where}: unknown network; nearest are {', '.join(nearest(name.lower(), known, 3, 0.0))}"
    )


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
