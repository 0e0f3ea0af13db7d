import subprocess
import sys

import pytest
import torch

from kdbench.outputs import Features, NetworkOutput, Outputs


def output(dtype=torch.float32, preacts=False):
    maps = (torch.ones(2, 3, 4, 4, dtype=dtype, requires_grad=True),)
    logits = torch.ones(2, 5, dtype=dtype, requires_grad=True)
    pooled = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    return NetworkOutput(logits, Features(maps, pooled, maps if preacts else None))


def tensors(outputs):
    for network in (outputs.teacher, outputs.student):
        if network is not None:
            yield network.logits
            if network.features is not None:
                yield from (*network.features.maps, network.features.pooled)
                yield from network.features.preacts or ()
    for view in (outputs.views or {}).values():
        yield from tensors(view)


def everything(dtype=torch.float32):
    targets = torch.tensor([0, 1])
    inner = Outputs(None, output(dtype), targets)
    return Outputs(output(dtype, preacts=True), output(dtype), targets, targets, {"strong": inner})


def test_detach_reaches_every_tensor():
    assert all(tensor.requires_grad for tensor in tensors(everything()))
    detached = everything().detach()
    assert len(list(tensors(detached))) == len(list(tensors(everything()))) == 10
    assert not any(tensor.requires_grad for tensor in tensors(detached))
    assert detached.index is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_widen_leaves_nothing_narrower_than_float32(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {tensor.dtype for tensor in tensors(everything(dtype).widen())} == {wide}


def test_views_by_name():
    outputs = everything()
    assert outputs.view("weak") is outputs
    assert outputs.view("strong") is outputs.views["strong"]
    with pytest.raises(ValueError, match="no view 'mixed', found weak, strong"):
        outputs.view("mixed")


def test_missing_outputs_are_errors():
    logits = torch.zeros(2, 3)
    outputs = Outputs.from_logits(logits, logits, torch.zeros(2).long())
    assert outputs.logits == (logits, logits)
    with pytest.raises(ValueError, match="have no features"):
        _ = outputs.features
    with pytest.raises(ValueError, match="have no teacher"):
        _ = outputs._replace(teacher=None).logits


def test_importing_it_needs_no_torch():
    code = "import sys; from kdbench import Outputs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
