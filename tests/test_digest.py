import hashlib
import subprocess
import sys

import pytest
import torch

from kdbench.digest import file_digest, safetensors_digest, state_digest


def test_file_digest_is_sha256_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_state_digest_is_as_documented():
    state = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(3)}
    values = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    expected = b"a\0int64\0()\0" + b"\x03" + b"\0" * 7 + b"b\0float32\0(1, 2)\0" + values
    assert state_digest(state) == hashlib.sha256(expected).hexdigest()


def test_the_digest_ignores_order_and_memory_format():
    x = torch.randn(2, 3, 4, 4)
    expected = state_digest({"x": x, "y": x[0]})
    turned = x.to(memory_format=torch.channels_last).requires_grad_()
    assert state_digest({"y": x[0], "x": turned}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.ones(4)},
        {"x": torch.ones(2, 2)},
        {"x": torch.ones(4, dtype=torch.float64)},
        {"x": torch.tensor([1.0, 1.0, 1.0, 1.0000001])},
        {"x": torch.ones(4), "y": torch.ones(0)},
    ],
)
def test_the_digest_covers_key_shape_dtype_and_bits(other):
    assert state_digest(other) != state_digest({"x": torch.ones(4)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8])
def test_narrow_dtypes(dtype):
    zeros, ones = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    assert state_digest({"x": zeros}) != state_digest({"x": ones})
    assert state_digest({"x": ones}) == state_digest({"x": ones.clone()})


def test_importing_needs_no_torch():
    code = "import sys, kdbench.digest; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_has_the_digest_of_its_tensors(tmp_path):
    from safetensors.torch import save_file

    state = {
        "b": torch.randn(2, 3),
        "a": torch.tensor(3),
        "half": torch.randn(4).half(),
        "brain": torch.randn(3, 1).bfloat16(),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "none": torch.zeros(0, 3),
    }
    save_file(state, tmp_path / "file", {"arch": "net"})
    assert safetensors_digest(tmp_path / "file") == state_digest(state)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, b"\2" + b"\0" * 7 + b"[]"])
def test_other_files_have_no_such_digest(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        safetensors_digest(tmp_path / "file")
