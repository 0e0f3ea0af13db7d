"""Exceptions of other libraries."""

import errno
import json
import os

import pytest
import torch

from kdbench import errors as errors_module
from kdbench.errors import (
    ConfigError,
    DeviceError,
    ExitCode,
    MemoryShortageError,
    ResourceError,
    known_error,
)


def test_an_error_of_the_cpu_allocator_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    known = known_error(caught.value)
    assert isinstance(known, MemoryShortageError)
    assert known.exit_code == 6
    assert "you tried to allocate" in str(known)
    assert "dataset.batch_size" in str(known)


SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_shortages_of_memory(error):
    assert isinstance(known_error(error), MemoryShortageError)


def accelerator_error(code):
    error = torch.AcceleratorError("CUDA error: something")
    error.error_code = code
    return error


def test_device_failures_are_recognized_by_type():
    assert isinstance(known_error(accelerator_error(2)), MemoryShortageError)
    assert isinstance(known_error(accelerator_error(700)), DeviceError)
    assert isinstance(known_error(RuntimeError("cuDNN error: CUDNN_STATUS_BAD")), DeviceError)
    for other in (RuntimeError("no kernel for CUDA"), ValueError("CUDA error: 1")):
        assert known_error(other) is None
    assert isinstance(known_error(ConfigError("CUDA error: x")), ConfigError)


def test_a_full_disk_without_a_name_is_not_none():
    known = known_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(known, ResourceError)
    assert "None" not in str(known)


def test_every_code_has_a_meaning_and_every_error_a_code():
    assert all(code.meaning for code in ExitCode)
    errors = [each for each in vars(errors_module).values() if isinstance(each, type)]
    codes = {each.exit_code for each in errors if hasattr(each, "exit_code")}
    assert codes <= set(ExitCode)
    assert {f"{ConfigError.exit_code}", json.dumps(ConfigError.exit_code)} == {"2"}
