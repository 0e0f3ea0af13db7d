"""Plugins: what is neither a temperature nor a loss, such as another update rule."""

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdbench.data.base import Batch
from kdbench.objective.objective import LossTerms
from kdbench.outputs import Outputs
from kdbench.progress import Progress


class Plugin(nn.Module):
    """The plain update; a base for others. Its state is saved with the run."""

    def param_groups(self) -> list[dict]:
        """Optimizer groups of the plugin's own parameters."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params}] if params else []

    def prepare(self, batch: Batch, progress: Progress) -> Batch:
        """The batch that this run trains on; the very same object where nothing is changed.

        The teacher answers a changed batch once more, for this run alone.
        """
        return batch

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Called after every optimizer step with its outputs, detached; nothing by default."""

    def update(self, terms: LossTerms, optimizer: Optimizer, scaler: GradScaler) -> None:
        """One optimizer step from the named, per-sample losses.

        Args:
            terms: losses of the batch; ``terms.terms`` keeps them apart by name for plugins that
                differentiate them separately.
            optimizer: over student, strategies and plugin; its gradients are cleared.
            scaler: passes through unless the precision is fp16.
        """
        scaler.scale(terms.total()).backward()
        scaler.step(optimizer)
        scaler.update()
