"""The errors that a user can meet, each with the exit code of the command that met it.

Code raises these; only the outermost level (``kdbench.train.main``) turns them into exit codes.
Every message says what is wrong, where (config key or path), the value found, what is allowed,
and what to do.
"""


class KdbenchError(Exception):
    """Base of all expected errors; ``exit_code`` is the exit status of the command."""

    exit_code = 1


class ConfigError(KdbenchError):
    """The configuration cannot be run."""

    exit_code = 2


class DataError(KdbenchError):
    """A dataset is missing, damaged or not what the configuration says."""

    exit_code = 3


class CheckpointError(KdbenchError):
    """A weight file or checkpoint is missing, damaged, foreign or does not fit."""

    exit_code = 4


class NumericalError(KdbenchError):
    """A loss or gradient is no longer finite."""

    exit_code = 5


class ResourceError(KdbenchError):
    """Disk, memory or permissions are not sufficient."""

    exit_code = 6


class LockedError(KdbenchError):
    """Another process works on the same run."""

    exit_code = 7


class SweepError(KdbenchError):
    """Some jobs of a sweep failed; the others finished."""

    exit_code = 9


class Preempted(BaseException):
    """The run was asked to stop, has saved its state, and wants to be started again.

    Derives from BaseException so that a sweep stops instead of going on with its next job.
    """

    exit_code = 75
