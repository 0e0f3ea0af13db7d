"""Exports networks for other programs, as safetensors and as ONNX."""

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdbench.digest import state_digest
from kdbench.errors import CheckpointError, ConfigError, first_line
from kdbench.files import write_atomic
from kdbench.model.checkpoint import load_weights, save_weights
from kdbench.words import plural

OPSET = 20  # of ONNX; supported by onnxruntime >= 1.17
TOLERANCE = 1e-4  # largest difference of logits over the largest logit: rounding only
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxCheck:
    """Logits of onnxruntime, compared with torch in float32.

    Attributes:
        images: number of images.
        max_difference: largest absolute difference of two logits.
        max_logit: largest absolute logit, for scale.
        same_top1: number of images with the same predicted class.
    """

    images: int
    max_difference: float
    max_logit: float
    same_top1: int

    def __str__(self) -> str:
        return (
            f"onnxruntime and torch differ by at most {self.max_difference:.1e} (largest logit "
            f"{self.max_logit:.1f}) and predict the same class for {self.same_top1} of "
            f"{plural(self.images, 'image')}"
        )


def require_onnx() -> None:
    """Checks early that the packages for an ONNX export are installed.

    Raises:
        ConfigError: some are missing; the message says what to install.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an ONNX export needs {', '.join(missing)}, not installed here; pip install "
            f"'kdbench[onnx]', or pip install {' '.join(_PACKAGES)}"
        )


def export_safetensors(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the weights and reads them back.

    Args:
        network: on any device.
        path: ends in ``.safetensors``.
        metadata: stored with the weights.

    Raises:
        CheckpointError: the weights read back differ.
    """
    state = network.state_dict()
    save_weights(path, state, dict(metadata))
    if state_digest(load_weights(path).state) != state_digest(state):
        raise CheckpointError(f"{path} differs from what was written to it; the disk is damaged")


def export_onnx(
    network: nn.Module, path: Path, metadata: Mapping[str, str], images: Tensor
) -> OnnxCheck:
    """Writes the network in float32, for any batch size, after a check with onnxruntime.

    Args:
        network: in evaluation mode; not changed.
        path: ends in ``.onnx``. Input ``images`` [batch, C, H, W], output ``logits`` [batch, K].
        metadata: stored with the network.
        images: [N, C, H, W] normalized, N >= 2; for the check.

    Raises:
        ConfigError: a package is missing, or ONNX does not support the network.
        CheckpointError: the logits of onnxruntime differ; nothing is written.
    """
    require_onnx()
    network, images = copy.deepcopy(network).cpu().float().eval(), images.cpu().contiguous()
    payload = _translate(network, images[:2], metadata)
    check = _compare(payload, network, images)
    if not check.max_difference <= TOLERANCE * check.max_logit:
        raise CheckpointError(
            f"{path} is not written: {check}; allowed is {TOLERANCE:g} of the largest logit"
        )
    write_atomic(path, payload)
    return check


def _translate(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    try:
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{type(network).__name__} cannot be exported to ONNX: {reason}; use safetensors"
        ) from error
    assert program is not None
    model = program.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def _compare(payload: bytes, network: nn.Module, images: Tensor) -> OnnxCheck:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])

    def predict(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])

    with torch.no_grad():
        expected = network(images)
    found = torch.cat([predict(images[:1]), predict(images[1:])])  # two batch sizes
    return OnnxCheck(
        images=len(images),
        max_difference=(found - expected).abs().max().item(),
        max_logit=expected.abs().max().item(),
        same_top1=int((found.argmax(dim=1) == expected.argmax(dim=1)).sum()),
    )
