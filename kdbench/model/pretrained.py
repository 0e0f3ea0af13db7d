"""Weights published by timm and torchvision, from their caches or downloaded with them."""

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from kdbench.errors import CheckpointError, ConfigError

# torchvision's first weights of a network, which papers distill from.
FIRST = "IMAGENET1K_V1"
_FILES = ("model.safetensors", "pytorch_model.bin")  # of a model on the Hugging Face Hub


def find_pretrained(arch: str, tag: str | None = None) -> Path:
    """The file of a library's own weights; downloaded into its cache if it is not there.

    Args:
        arch: "torchvision:NAME" or "timm:NAME".
        tag: which weights: for torchvision such as "IMAGENET1K_V2", by default ``FIRST``; for timm
            such as "a1_in1k".

    Raises:
        ConfigError: there are no such weights.
        CheckpointError: they are not cached and cannot be downloaded.
    """
    library, _, name = arch.partition(":")
    if library == "torchvision":
        return _of_torchvision(name, tag or FIRST)
    if library == "timm":
        return _of_timm(name, tag)
    raise ConfigError(
        f"teacher.weights=pretrained is for networks of timm and torchvision, but the teacher is "
        f"{arch}; give a file, a folder of published teachers, or auto"
    )


def _of_torchvision(name: str, tag: str) -> Path:
    models = importlib.import_module("torchvision.models")
    try:
        known = models.get_model_weights(name)
    except ValueError as error:
        raise ConfigError(f"torchvision has no weights of {name}: {error}") from error
    if tag not in known.__members__:
        raise ConfigError(
            f"teacher.weights=pretrained:{tag}: torchvision's weights of {name} are "
            f"{', '.join(known.__members__) or 'none'}"
        )
    return _of_url(known[tag].url)


def _of_timm(name: str, tag: str | None) -> Path:
    timm = importlib.import_module("timm")
    full = f"{name}.{tag}" if tag else name
    try:
        found = timm.get_pretrained_cfg(full) if timm.is_model(name) else None
    except RuntimeError:  # for an unknown tag
        found = None
    if found is None or not found.has_weights:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ConfigError(f"timm has no weights {full}; it has {', '.join(known) or 'none of it'}")
    if found.hf_hub_id:
        return _of_hub(found.hf_hub_id, found.hf_hub_filename)
    return _of_url(found.url)


def _of_url(url: str) -> Path:
    """A file in the cache of ``torch.hub``, with the first digits of its digest in its name."""
    hub = importlib.import_module("torch.hub")
    path = Path(hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if path.is_file():
        return path
    _, _, digits = path.stem.rpartition("-")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), digits if len(digits) >= 8 else None, False)
    except Exception as error:  # URL, network, disk or digest
        raise _missing(url, str(path), error) from error
    return path


def _of_hub(repository: str, file: str | None) -> Path:
    """A file in the cache of the Hugging Face Hub."""
    hub: Any = importlib.import_module("huggingface_hub")
    cache = importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
    failure: Exception | None = None
    for name in (file,) if file else _FILES:
        try:
            return Path(hub.hf_hub_download(repository, name))
        except Exception as error:  # huggingface_hub raises many types
            failure = failure or error
    assert failure is not None
    folder = f"{cache}/models--{repository.replace('/', '--')}"
    url = f"https://huggingface.co/{repository}/resolve/main/{file or _FILES[0]}"
    raise _missing(url, f"the cache of the Hub ({folder})", failure) from failure


def _missing(url: str, place: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"teacher.weights=pretrained: the weights are not in {place} and could not be downloaded "
        f"({reason}). On a machine with network access, download {url}, then put the file there "
        f"or set teacher.weights=FILE"
    )
