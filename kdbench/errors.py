"""The errors that a user can see, each with its exit code.

Code raises these; only the outermost level (``kdbench.cli.command``) turns them into exit codes.
Every message says what is wrong, where (config key or path), the value found, what is allowed,
and what to do.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from enum import IntEnum

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EIO}
_VARIABLE = re.compile(r"[Ee]nvironment variable '([^']*)' not found")  # OmegaConf's message
_LOADER_DIED = "DataLoader worker (pid"  # torch has no exception type for it
_SHARED_MEMORY = "/dev/shm"

# Messages of plain RuntimeErrors of torch: its CPU allocator has no exception type, and cuDNN and
# cuBLAS report a status.
_NO_MEMORY = ("DefaultCPUAllocator: ", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
_LIBRARY_FAILURES = ("cuDNN error: ", "CUDA error: ")
_CUDA_NO_MEMORY = 2  # cudaErrorMemoryAllocation


class ExitCode(IntEnum):
    """How a command ends. ``meaning`` says it to people."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        """A code with its meaning."""
        found = int.__new__(cls, code)
        found._value_, found.meaning = code, meaning
        return found

    DONE = 0, "Done."
    BUG = 1, "A bug in kdbench or in your own code; the traceback is shown."
    CONFIG = 2, "The configuration cannot be run."
    DATA = 3, "A dataset is missing, damaged or not what the configuration says."
    CHECKPOINT = 4, "A weight file or checkpoint is missing, damaged, foreign or does not fit."
    NUMERICAL = 5, "A loss or gradient is no longer finite."
    RESOURCE = 6, "Disk, memory or permissions are not sufficient."
    LOCKED = 7, "Another process works on the same run."
    GAVE_UP = 8, "A run was started again and again and got nowhere."
    SWEEP = 9, "Some jobs of a sweep failed; the others finished."
    NOT_IN_WANDB = 10, "`kdbench-dashboard`: not everything arrived at W&B."
    DIFFERENT = 11, "`kdbench-rerun`: the repeated run has different numbers."
    PREEMPTED = 75, "Asked to stop, and saved: the same command continues the run."
    INTERRUPTED = 130, "Ctrl-C before there was anything to save, or twice."
    BROKEN_PIPE = 141, "The reader of the output has left, as in `kdbench-train --help | head`."


class KdbenchError(Exception):
    """Base of all expected errors; ``exit_code`` is the exit status of the command."""

    exit_code = ExitCode.BUG


class ConfigError(KdbenchError):
    """The config is invalid."""

    exit_code = ExitCode.CONFIG


class DataError(KdbenchError):
    """A dataset is missing, damaged or does not match the config."""

    exit_code = ExitCode.DATA


class CheckpointError(KdbenchError):
    """A weight file or checkpoint is missing, damaged, foreign or does not fit."""

    exit_code = ExitCode.CHECKPOINT


class NumericalError(KdbenchError):
    """A loss or gradient is no longer finite."""

    exit_code = ExitCode.NUMERICAL


class ResourceError(KdbenchError):
    """Not enough disk space, memory or permissions."""

    exit_code = ExitCode.RESOURCE


class TransientError(ResourceError):
    """This process cannot continue, but a retry in another one may succeed."""


class LoaderError(TransientError):
    """A data-loading worker died or is out of shared memory."""


class MemoryShortageError(ResourceError):
    """A device is out of memory."""


class DeviceError(TransientError):
    """A device failed and cannot be used any more in this process."""


class LockedError(KdbenchError):
    """Another process is using the same run folder."""

    exit_code = ExitCode.LOCKED


class GaveUpError(KdbenchError):
    """A run was restarted several times without progress."""

    exit_code = ExitCode.GAVE_UP


class SweepError(KdbenchError):
    """Some jobs of a sweep are unfinished; the others are done."""

    exit_code = ExitCode.SWEEP


def describe_error(error: BaseException) -> str:
    """The message of an error; for a bug, with its type."""
    known = known_error(error)
    return str(known) if known is not None else f"{type(error).__name__}: {error}"


def known_error(error: BaseException | None) -> KdbenchError | None:
    """The expected error behind an exception, or None for a bug.

    Hydra and OmegaConf wrap exceptions; a full disk or memory has many exception types.
    """
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf.errors import OmegaConfBaseException

    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, KdbenchError):
            return each
        if _is_memory_shortage(each):
            return MemoryShortageError(
                f"out of memory: {first_line(each)}. Choose a smaller dataset.batch_size or "
                f"network; the last checkpoint is kept"
            )
        if _is_device_failure(each):
            return DeviceError(
                f"the device failed: {first_line(each)}. The last checkpoint is kept, and the "
                f"same command continues from it"
            )
        if isinstance(each, RuntimeError) and str(each).startswith(_LOADER_DIED):
            return explain_loader(str(each).partition(". ")[0])
        if isinstance(each, OSError) and each.errno in _NO_ROOM:
            where = each.filename or "a file below paths.outputs"
            return ResourceError(f"{where}: {each.strerror}; see paths.outputs")
    for each, behind in zip(chain, [*chain[1:], None], strict=True):
        if isinstance(each, ConfigCompositionException):
            return ConfigError(_describe_composition(each, behind))
        if isinstance(each, OmegaConfBaseException | HydraException) and not _is_of_ours(behind):
            return ConfigError(describe_interpolation(each))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def describe_interpolation(error: BaseException) -> str:
    """Message of a failed interpolation: its key, and the environment variable if that is unset."""
    for behind in _chain(error):
        if isinstance(behind, KdbenchError):  # from one of our resolvers, with a full message
            return str(behind)
    key = getattr(error, "full_key", None)
    text = first_line(error)
    variable = _VARIABLE.search(text)
    if variable is not None:
        text = f"the environment variable {variable[1]} is not set; set it, or give {key}=VALUE"
    return f"{key}: {text}" if key and not text.startswith(f"{key}:") else text


def _describe_composition(error: BaseException, behind: BaseException | None) -> str:
    reason = describe_interpolation(behind) if behind is not None else ""
    where = (str(error).strip().splitlines() or [""])[0].rstrip(": ")
    return ": ".join(filter(None, [where, reason]))


def _is_of_ours(error: BaseException | None) -> bool:
    """Whether the cause of an error of Hydra or OmegaConf may be a bug.

    A resolver that fails inside these libraries (no such variable, no such key) got invalid input.
    One that fails in other code has a bug, unless its exception type says otherwise.
    """
    if error is None:
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__")) if trace is not None else ""
    return module.partition(".")[0] not in ("hydra", "omegaconf", "antlr4", "yaml")


def explain_loader(problem: str) -> LoaderError:
    """A LoaderError with the problem, the likely causes and the remedies."""
    try:
        usage = shutil.disk_usage(_SHARED_MEMORY)
        free = f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free"
    except OSError:
        free = "does not exist"
    return LoaderError(
        f"{problem}. Likely causes: the machine or container is out of memory and the system "
        f"killed it, or shared memory is too small ({_SHARED_MEMORY}: {free}). Choose fewer "
        f"dataset.workers (0 loads in the training process), a smaller dataset.batch_size, or "
        f"more shared memory (docker run --shm-size=8g). The last checkpoint is kept: the same "
        f"command continues"
    )


def _is_memory_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_of(error, "OutOfMemoryError"):
        return True
    if _is_of(error, "AcceleratorError"):
        return getattr(error, "error_code", None) == _CUDA_NO_MEMORY
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def _is_device_failure(error: BaseException) -> bool:
    if _is_of(error, "AcceleratorError"):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_LIBRARY_FAILURES)


def _is_of(error: BaseException, name: str) -> bool:
    """Whether an error has a class of torch, without the second that importing torch takes."""
    return any(
        kind.__name__ == name and kind.__module__.startswith("torch")
        for kind in type(error).__mro__
    )


def first_line(error: BaseException) -> str:
    """The first line of an error message; the type of an error without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Preempted(BaseException):
    """The run was stopped by a signal and has saved its state; the same command continues it.

    Derives from BaseException so that a sweep stops instead of starting its next job.
    """

    exit_code = ExitCode.PREEMPTED
