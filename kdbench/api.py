"""The public API: objectives for any training loop, and finished runs."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.config.recall import open_run
from kdbench.errors import CheckpointError
from kdbench.records.collect import RunFolder
from kdbench.records.record import WEIGHTS, RunRecord

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from kdbench.objective.objective import Objective


@dataclass(frozen=True)
class LoadedRun:
    """A run that has ended; curves and network are read on first use.

    Attributes:
        folder: of the run.
        record: its ``record.json``: config, results, versions, time.
    """

    folder: Path
    record: RunRecord

    @cached_property
    def curves(self) -> "pandas.DataFrame":
        """metrics.csv: one row per finished epoch, counted from 1."""
        import pandas

        return pandas.DataFrame(RunFolder(self.folder, self.record).metrics)

    @cached_property
    def model(self) -> "nn.Module":
        """The trained student with its final weights, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: the run failed, or its weights are missing, damaged or changed.
        """
        from kdbench.config.build import build
        from kdbench.digest import state_digest
        from kdbench.model.checkpoint import fit_weights, load_weights

        if self.record.status != "done":
            raise CheckpointError(
                f"{self.folder} has no weights, because the run failed: {self.record.reason}"
            )
        file, node = self.folder / WEIGHTS, self.record.config["student"]
        network = build({**node, "weights": None})  # the file has all weights
        fit_weights(network, load_weights(file, role="student"), file, node["arch"])
        digest = state_digest(network.state_dict())
        if digest != self.record.weights_digest:
            raise CheckpointError(
                f"{file} does not have the weights of its run: their digest should be "
                f"{self.record.weights_digest}, found {digest}; restore the file"
            )
        return network.eval()


def load_run(folder: str | Path) -> LoadedRun:
    """Opens the folder of a run that has ended. Safe for untrusted folders: runs no code.

    Args:
        folder: such as ``outputs/runs/<dataset>/<pair>/<method>/seed0-...``.

    Raises:
        CheckpointError: its record is missing or damaged.
    """
    run = open_run(Path(folder))
    return LoadedRun(run.folder, run.record)


def load_objective(method: str, overrides: Sequence[str] | str = ()) -> "Objective":
    """The objective of a published method, for use in any training loop.

    Args:
        method: a name in ``conf/method``, such as "kd".
        overrides: as on the command line: ["temperature.tau=2"], or a string with spaces between
            several.

    Returns:
        Call it with ``Outputs`` and ``Progress``, or with logits: ``from_logits(teacher_logits,
        student_logits, targets, progress)``. What learns needs ``param_groups()`` in the
        optimizer, ``observe(outputs, progress)`` after each step and, on several ranks,
        ``distribute()``.

    Raises:
        ConfigError: unknown method or key, or an invalid value.
    """
    from kdbench.config.build import build_objective
    from kdbench.config.overrides import compose_checked

    given = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return build_objective(compose_checked([f"method={method}", *given]))
