"""Synchronizes an objective's learned state on all ranks of a data-parallel loop."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """The processes that train one model together.

    Args:
        group: process group; None means all processes.
        average: False if something else averages, or if each rank trains its own model.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialized.
    """

    def __init__(self, group: dist.ProcessGroup | None, average: bool) -> None:
        if count_ranks() == 0:
            raise RuntimeError(
                "objective.distribute() needs torch.distributed; call init_process_group() first"
            )
        self.group, self.is_averaging = group, average

    @torch.no_grad()
    def broadcast(self, module: nn.Module) -> None:
        """Copies the state of the group's first rank to all ranks."""
        if self.is_averaging:
            first = dist.get_process_group_ranks(self.group or dist.group.WORLD)[0]
            for tensor in _learned(module):
                dist.broadcast(tensor, first, group=self.group)

    @torch.no_grad()
    def average(self, module: nn.Module) -> None:
        """Replaces the state by its mean over the ranks."""
        if self.is_averaging:
            for tensor in _learned(module):
                dist.all_reduce(tensor, group=self.group)
                tensor.div_(dist.get_world_size(self.group))


def count_ranks() -> int:
    """World size of ``torch.distributed``; 0 if it is not initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0


def _learned(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            yield tensor.detach()
