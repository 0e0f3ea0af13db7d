"""Networks for other programs: as safetensors and as ONNX."""

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

OPSET = 20  # of ONNX; onnxruntime reads it since 1.17
TOLERANCE = 1e-4  # largest difference of logits over the largest logit: rounding, and no more
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxCheck:
    """What onnxruntime answers, compared with torch in float32.

    Attributes:
        images: that both were shown.
        max_difference: largest absolute difference of two logits.
        max_logit: largest absolute logit, for scale.
        same_top1: images for which both choose the same class.
    """

    images: int
    max_difference: float
    max_logit: float
    same_top1: int

    def __str__(self) -> str:
        return (
            f"onnxruntime and torch differ by at most {self.max_difference:.1e} (largest logit "
            f"{self.max_logit:.1f}) and choose the same class for {self.same_top1} of "
            f"{plural(self.images, 'image')}"
        )


def require_onnx() -> None:
    """Refuses at once what would end for lack of a package.

    Raises:
        ConfigError: names what to install.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"an ONNX export needs {', '.join(missing)}, not found here; install kdbench with its "
            f"extra, pip install 'kdbench[onnx]', or pip install {' '.join(_PACKAGES)}"
        )


def export_safetensors(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the weights, and reads them again.

    Args:
        network: as it is, whatever its device.
        path: ends in ``.safetensors``.
        metadata: texts that go with the weights.

    Raises:
        CheckpointError: what is read is not what was written.
    """
    state = network.state_dict()
    save_weights(path, state, dict(metadata))
    if state_digest(load_weights(path).state) != state_digest(state):
        raise CheckpointError(f"{path} does not hold what was written to it; the disk is damaged")


def export_onnx(
    network: nn.Module, path: Path, metadata: Mapping[str, str], images: Tensor
) -> OnnxCheck:
    """Writes the network in float32, with any batch size, after onnxruntime has answered with it.

    Args:
        network: in evaluation mode; not changed.
        path: ends in ``.onnx``. Input ``images`` [batch, C, H, W], output ``logits`` [batch, K].
        metadata: texts that go with the network.
        images: [N, C, H, W] normalised, N >= 2; what both are shown.

    Raises:
        ConfigError: a package is missing, or the network has something that ONNX cannot say.
        CheckpointError: onnxruntime answers differently; nothing is written.
    """
    require_onnx()
    network, images = copy.deepcopy(network).cpu().float().eval(), images.cpu().contiguous()
    payload = _translate(network, images[:2], metadata)
    check = _compare(payload, network, images)
    if not check.max_difference <= TOLERANCE * check.max_logit:
        raise CheckpointError(f"{path} is not written: {check}, allowed is {TOLERANCE:g} of that")
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
            f"{type(network).__name__} cannot be written as ONNX: {reason}; use safetensors"
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

    def answer(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])

    with torch.no_grad():
        expected = network(images)
    found = torch.cat([answer(images[:1]), answer(images[1:])])  # two sizes of a batch
    return OnnxCheck(
        images=len(images),
        max_difference=(found - expected).abs().max().item(),
        max_logit=expected.abs().max().item(),
        same_top1=int((found.argmax(dim=1) == expected.argmax(dim=1)).sum()),
    )
