"""``hydra/launcher=cohort``. Hydra finds launchers only here, and imports this on every start."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CohortLauncher(Launcher):
    """Trains the jobs of a sweep in groups that share a teacher: see ``kdbench.launch.sweep``.

    Args:
        executor: ``kdbench.launch.executor.Executor``.
        max_learners: see ``kdbench.launch.sweep.Sweep``.
        fail_fast: see ``kdbench.launch.sweep.Sweep``.
        max_points: see ``kdbench.launch.sweep.Sweep``.
        dry: train nothing; print what would be trained and its estimated cost.

    Raises:
        ConfigError: ``dry`` is not true or false.
    """

    def __init__(
        self,
        executor: Any,
        max_learners: int | None,
        fail_fast: int | None,
        max_points: int | None,
        dry: bool,
    ) -> None:
        self.executor, self.max_learners, self.fail_fast = executor, max_learners, fail_fast
        self.max_points, self.dry = max_points, dry

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``launch``."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Called by the sweeper, once for each batch of jobs."""
        # Imported here to keep every other start of Hydra fast.
        from kdbench.errors import ConfigError
        from kdbench.launch.sweep import Sweep
        from kdbench.planning.sweep import forecast_sweep

        if not isinstance(self.dry, bool):
            raise ConfigError(f"hydra.launcher.dry={self.dry!r} must be true or false")
        sweep = Sweep(
            self.executor,
            self.max_learners,
            self.fail_fast,
            self.max_points,
            forecast_sweep if self.dry else None,
            self.context,
            self.task_function,
            self.config,
        )
        return sweep.launch(job_overrides, initial_job_idx)
