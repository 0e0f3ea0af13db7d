"""Plugins: anything that is neither a temperature nor a loss, such as another update rule."""

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdbench.data.base import Batch
from kdbench.objective.objective import LossTerms
from kdbench.outputs import Outputs
from kdbench.progress import Progress


class Plugin(nn.Module):
    """Base class; by itself the standard update. Its state is saved with the run."""

    def param_groups(self) -> list[dict]:
        """Optimizer groups of the plugin's own parameters."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params}] if params else []

    def prepare(self, batch: Batch, progress: Progress) -> Batch:
        """The batch that this run trains on; the same object if unchanged.

        A changed batch goes through the teacher again, for this run only.
        """
        return batch

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Called after every optimizer step with its detached outputs; a no-op by default."""

    def update(self, terms: LossTerms, optimizer: Optimizer, scaler: GradScaler) -> None:
        """One optimizer step from the named, per-sample losses.

        Args:
            terms: losses of the batch; ``terms.terms`` has them by name, for plugins that
                differentiate them separately.
            optimizer: over student, strategies and plugin, with gradients cleared.
            scaler: a no-op unless the precision is fp16.
        """
        scaler.scale(terms.total()).backward()
        scaler.step(optimizer)
        scaler.update()
