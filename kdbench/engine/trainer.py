"""The training loop: one teacher, several learners, one pass over the data."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor

from kdbench import fault
from kdbench.data.base import Batch, DataModule
from kdbench.engine.journal import Journal
from kdbench.engine.learner import Learner
from kdbench.engine.metrics import evaluate_logits
from kdbench.engine.signals import StopSignals
from kdbench.engine.timesheet import TimeSheet, make_clock, summarise_time
from kdbench.errors import MemoryShortageError, Preempted, TransientError, first_line, known_error
from kdbench.model.compute import Compute
from kdbench.outputs import WEAK, NetworkOutput
from kdbench.progress import Progress
from kdbench.records.log import log_failure
from kdbench.teacher.teacher import Query, Teacher
from kdbench.tracker.display import Display


class Run:
    """A learner and the journal of its folder."""

    def __init__(self, learner: Learner, journal: Journal) -> None:
        self.learner, self.journal = learner, journal
        self.error: Exception | None = None

    @property
    def name(self) -> str:
        """Its label in log lines."""
        return self.journal.identity.label

    @property
    def key(self) -> str:
        """Its run key; unlike the name, unique."""
        return self.journal.identity.run_key

    def fail(self, error: Exception) -> None:
        """Drops the run from the loop and frees its memory; the others continue."""
        known = known_error(error)
        if isinstance(known, MemoryShortageError):
            error = self._explain_shortage(error)
            self.learner.release()
        log_failure(self.journal.folder, error)
        self.error = error

    def _explain_shortage(self, error: Exception) -> MemoryShortageError:
        """A new error without the traceback, which would keep the step's tensors alive."""
        config, device = self.journal.config, self.learner.compute.device
        return MemoryShortageError(
            f"out of memory on {device} in step {self.learner.step} with "
            f"dataset.batch_size={config['dataset']['batch_size']} and the student "
            f"{config['student']['arch']}: {first_line(error)}."
            f" Choose a smaller batch or network; the last checkpoint is kept"
        )

    def is_at(self, epoch: int) -> bool:
        """Whether the given epoch is this run's next one to finish."""
        return self.error is None and len(self.journal.rows) == epoch

    def is_due(self, step: int) -> bool:
        """Whether this step is this run's next one."""
        return self.error is None and self.learner.step == step


class Trainer:
    """Trains a list of runs that share data and teacher.

    Runs are independent: each one gives the same result as alone. Runs resumed from different
    steps start at the earliest one; the others join when it reaches theirs.

    Args:
        teacher: queried once per batch for all runs; None if no objective needs it.
        runs: to train.
        data: batches depend on (data seed, epoch, sample) only.
        epochs: of every run.
        protocol: "paper" evaluates on the test set after each epoch, "strict" on the validation
            split, and on the test set once at the end.
        compute: device and precision.
        checkpoint_minutes: between checkpoints within an epoch.
        display: shows progress.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        runs: Sequence[Run],
        data: DataModule,
        *,
        epochs: int,
        protocol: str,
        compute: Compute,
        checkpoint_minutes: float,
        display: Display,
    ) -> None:
        self.teacher, self.runs, self.data = teacher, list(runs), data
        self.epochs, self.total_steps = epochs, epochs * data.steps_per_epoch
        self.split = "test" if protocol == "paper" else "val"
        self.compute, self.display = compute, display
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.times = TimeSheet(make_clock(compute.device))
        for run in self.runs:
            self.times.add(run, run.journal.spent)

    def fit(self) -> None:
        """Trains every run until it is finished or fails.

        Raises:
            Preempted: a stop signal was received; everything is saved.
        """
        first = min((len(run.journal.rows) for run in self.runs), default=self.epochs)
        first_step = min((run.learner.step for run in self.runs), default=0)
        with StopSignals() as stop, self.display.start(first_step):
            for epoch in range(first, self.epochs):
                runs = [run for run in self.runs if run.is_at(epoch)]
                if runs:  # empty if those at this epoch failed and the others are ahead
                    self.train_epoch(epoch, runs, stop)
                    self.end_epoch(epoch, [run for run in runs if run.error is None])
                if epoch + 1 < self.epochs:
                    self._stop_if_requested(stop, runs)

    def train_epoch(self, epoch: int, runs: Sequence[Run], stop: StopSignals) -> None:
        """The remaining steps of one epoch (0-based)."""
        first_step = epoch * self.data.steps_per_epoch
        start = min((run.learner.step - first_step for run in runs), default=0)
        saved = time.monotonic()
        for position, batch in enumerate(self._read_batches(epoch, start, runs), start):
            step = first_step + position
            with self.times.charge("data", [run for run in runs if run.is_due(step)]):
                self.train_step(batch, Progress(step, self.total_steps, epoch, self.epochs), runs)
                self.display.step(len(batch.targets), self._mean_loss)
            fault.point("step")
            if all(run.error is not None for run in runs):
                return
            self._stop_if_requested(stop, runs)
            if time.monotonic() - saved > self.checkpoint_seconds:
                self._save(runs)
                saved = time.monotonic()

    def _read_batches(self, epoch: int, start: int, runs: Sequence[Run]) -> Iterator[Batch]:
        views = {view for run in runs for view in run.learner.objective.views} - {WEAK}
        batches = iter(self.data.train_batches(epoch, start, sorted(views)))
        for step in count(epoch * self.data.steps_per_epoch + start):
            with self.times.charge("data", [run for run in runs if run.is_due(step)]):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def train_step(self, batch: Batch, progress: Progress, runs: Sequence[Run]) -> None:
        """One batch: queries the teacher once, then steps every learner that is due."""
        due = [run for run in runs if run.is_due(progress.step)]
        teacher = self._teacher_outputs(batch, due)
        for run in due:
            with self._drop_on_error(run), self.times.charge("step", [run]):
                own = run.learner.plugin.prepare(batch, progress)
                outputs = teacher if own is batch else self._teacher_outputs(own, [run])
                run.learner.train_step(own, outputs, progress)
                run.journal.end_step(run.learner)

    def end_epoch(self, epoch: int, runs: Sequence[Run]) -> None:
        """Evaluates every run and logs the epoch (0-based) in its journal."""
        if not runs:
            return
        fault.point("epoch:trained")
        with self.times.charge("evaluation_data", runs):
            self.display.epoch(self._measure_epoch(epoch, runs))

    def _measure_epoch(self, epoch: int, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
        rows = {}
        for run, metrics in zip(runs, self.evaluate(self.split, runs), strict=True):
            learner = run.learner
            rows[run.key] = row = {
                "epoch": epoch + 1,  # number of finished epochs
                "step": learner.step,
                "optim/lr": learner.lr,
                **learner.meter.compute(),
                **{f"{self.split}/{name}": value for name, value in metrics.items()},
            }
            learner.meter.reset()
            timing = self._timing(epoch, run)
            with self._drop_on_error(run), self.times.charge("saving", [run]):
                run.journal.end_epoch(learner, row, timing, last=epoch + 1 == self.epochs)
        return rows

    def evaluate(self, split: str, runs: Sequence[Run]) -> list[dict[str, float]]:
        """Metrics of every run on a split; one pass over the data for all of them."""
        logits: list[list[Tensor]] = [[] for _ in runs]
        targets, metrics = [], []
        with self.times.charge("evaluation_data", runs):
            for batch in self.data.eval_batches(split):
                targets.append(batch.targets)
                for run, collected in zip(runs, logits, strict=True):
                    with self.times.charge("evaluation", [run]):
                        collected.append(run.learner.predict(batch.images))
            for run, collected in zip(runs, logits, strict=True):
                teacher_logits = self._teacher_logits(split, run, runs)
                with self.times.charge("evaluation", [run]):
                    found = evaluate_logits(
                        torch.cat(collected), torch.cat(targets), teacher_logits
                    )
                metrics.append(found)
        return metrics

    def test_metrics(self, protocol: str) -> list[dict[str, float]]:
        """Test metrics of the final weights, one dict per run; empty for failed runs."""
        succeeded = [run for run in self.runs if run.error is None]
        if protocol == "strict":  # the only time the test set is read
            found = self.evaluate("test", succeeded)
        else:
            found = [
                {
                    k.removeprefix("test/"): v
                    for k, v in run.journal.rows[-1].items()
                    if "test/" in k
                }
                for run in succeeded
            ]
        by_run = dict(zip(map(id, succeeded), found, strict=True))
        return [by_run.get(id(run), {}) for run in self.runs]

    def _teacher_logits(self, split: str, run: Run, runs: Sequence[Run]) -> Tensor | None:
        if self.teacher is None or not run.learner.objective.needs_teacher:
            return None
        users = [other for other in runs if other.learner.objective.needs_teacher]
        with self.times.charge("evaluation_data", users):
            return self.teacher.split_logits(self.data, split)[0]

    def _teacher_outputs(self, batch: Batch, due: Sequence[Run]) -> dict[Query, NetworkOutput]:
        """The teacher's outputs for a batch; each distinct query is computed once."""
        if self.teacher is None:
            return {}
        users: dict[Query, list[Run]] = {}
        for run in due:
            if run.learner.objective.needs_teacher:
                for query in run.learner.queries:
                    users.setdefault(query, []).append(run)
        outputs = {}
        for query, runs in users.items():
            with self.times.charge("teacher", runs):
                outputs[query] = self.teacher.query(batch, query)
        return outputs

    def _mean_loss(self) -> float:
        losses = [run.learner.meter.loss() for run in self.runs if run.error is None]
        return sum(losses) / max(len(losses), 1)

    def _timing(self, epoch: int, run: Run) -> dict[str, float]:
        """The epoch's times, and the run's speed as if trained alone."""
        spent = self.times.take(run)
        run.journal.spent = {}
        training = spent["step"] + spent["data"] + spent["teacher"]
        times = {f"perf/{name}": value for name, value in summarise_time(spent).items()}
        return {
            "epoch": epoch + 1,
            **times,
            "perf/images_per_s": self.data.num_train / max(training, 1e-9),
            "perf/peak_memory_mb": self.compute.peak_memory_mb(),
            "perf/teacher_share": spent["teacher"] / max(training, 1e-9),
        }

    @contextmanager
    def _drop_on_error(self, run: Run) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(known_error(error), TransientError):
                raise  # affects all runs: a device failed, a loader was killed
            run.fail(error)
        if run.error is not None:
            self.display.note(f"{run.name} failed and is dropped: {run.error}", run.key)

    def _save(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.error is None:
                run.journal.spent = self.times.read(run)
                with self._drop_on_error(run), self.times.charge("saving", [run]):
                    run.journal.commit(run.learner)

    def _stop_if_requested(self, stop: StopSignals, runs: Sequence[Run]) -> None:
        if stop.requested:
            self._save(runs)
            raise Preempted(f"stopped by {stop.requested}; saved. Run the same command to resume")
