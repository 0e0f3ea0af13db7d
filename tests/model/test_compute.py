"""Device and precision of a process."""

import pytest
import torch

from kdbench.config.compose import compose_config
from kdbench.errors import ConfigError
from kdbench.model import compute as device_module
from kdbench.model.compute import choose_compute, configure_compute, read_flags


@pytest.fixture(autouse=True)
def flags_as_before():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def ampere(monkeypatch):
    monkeypatch.setattr(device_module, "_find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


@pytest.mark.parametrize(
    ("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)]
)
def test_tf32_is_on_only_if_requested(ampere, precision, tf32):
    for _ in range(2):  # whatever the previous run has set
        configure_compute(compose_config([f"run.precision={precision}"]))
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert read_flags()["tf32_convolution"] is tf32
        torch.backends.cudnn.allow_tf32 = not tf32


def test_tf32_needs_a_gpu_that_supports_it(ampere, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    with pytest.raises(ConfigError, match=r"compute capability 8\.0 or higher, found T4"):
        choose_compute("cuda", "tf32", channels_last=True)


def test_a_cpu_has_no_tf32():
    with pytest.raises(ConfigError, match=r"run\.precision=tf32 needs an NVIDIA GPU .*found cpu"):
        choose_compute("cpu", "tf32", channels_last=True)
