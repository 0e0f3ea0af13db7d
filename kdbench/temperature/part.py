"""What strategies and losses have in common: parts of an objective, which may learn."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdbench.outputs import Outputs, find_unknown_needs
from kdbench.progress import Progress


class Part(nn.Module):
    """A strategy or a loss.

    It sees ``Outputs`` in float32 or wider, and computes without autocast, whoever calls it. What
    it learns is an ordinary parameter, in the part itself or in any module below it: it is trained,
    saved, moved and restored with the run. Parts may contain parts.

    Attributes:
        needs: what it reads beside logits and targets: names of ``kdbench.outputs.NEEDS``.
        trains_itself: whether it steps its own parameters in ``observe``; the run's optimizer
            then leaves them alone.
        weight_decay: of its own parameters; None takes that of the optimizer.
    """

    needs: frozenset[str] = frozenset()
    trains_itself: bool = False
    weight_decay: float | None = None

    def __call__(self, outputs: Outputs, *args: Any, **kwargs: Any) -> Any:
        """``forward`` in full precision."""
        with full_precision(outputs):
            return super().__call__(outputs.widen(), *args, **kwargs)

    def adapt(self, outputs: Outputs, num_samples: int) -> None:
        """Builds what depends on the shapes of features; called once, before the optimizer is made.

        Args:
            outputs: of an example batch. Only shapes count: the tensors may be on the meta device.
            num_samples: N, size of the full train split: ``outputs.index`` lies in [0, N).
        """

    def param_groups(self) -> list[dict]:
        """Optimizer groups of its own parameters; the parts in it have theirs."""
        own = [] if self.trains_itself else self.own_parameters()
        if not own:
            return []
        group: dict[str, Any] = {"params": own}
        return [
            group if self.weight_decay is None else {**group, "weight_decay": self.weight_decay}
        ]

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that learn and belong to no part inside this one."""
        inner = {
            id(parameter)
            for module in self.modules()
            if module is not self and isinstance(module, Part)
            for parameter in module.parameters()
        }
        return [p for p in self.parameters() if p.requires_grad and id(p) not in inner]

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Feedback after every optimizer step, with the outputs of that step; nothing by default.

        Args:
            outputs: of the view that the part reads, without gradient.
            progress: position in training.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As any module, but for ``half()`` and ``bfloat16()``: it stays in float32."""
        return super()._apply(lambda tensor: _keep_wide(tensor, fn(tensor)), recurse)


def full_precision(outputs: Outputs) -> AbstractContextManager:
    """Without autocast: in its narrow types a difference of large sums is lost."""
    device = outputs.student.logits.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def find_parts(module: nn.Module) -> list[Part]:
    """The parts in a module, itself included, outermost first."""
    return [each for each in module.modules() if isinstance(each, Part)]


def union_of_needs(parts: Iterable[Part]) -> frozenset[str]:
    """What these parts need together.

    Raises:
        ValueError: one of them needs something that nobody provides.
    """
    needs: set[str] = set()
    for part in parts:
        unknown = find_unknown_needs(part.needs)
        if unknown:
            raise ValueError(
                f"{type(part).__name__}.needs has {', '.join(map(repr, unknown))}; known are "
                f"features, preacts, index, labels (kdbench/outputs.py)"
            )
        needs |= part.needs
    return frozenset(needs)


def require_registered(module: nn.Module) -> None:
    """Refuses what learns and would be neither trained nor saved nor moved.

    A module or parameter in a plain list, tuple, set or dict is unknown to its owner.

    Raises:
        ValueError: something of that kind; the message names the attribute.
    """
    known = {id(each) for each in (*module.modules(), *module.parameters())}
    for owner in module.modules():
        for name, value in vars(owner).items():
            if name in _OF_MODULE:
                continue
            for path, found in _learnable(value, name):
                if id(found) not in known:
                    raise ValueError(
                        f"{type(owner).__name__}.{path} is a {type(found).__name__} that nobody "
                        f"registers: it would not be trained, saved or moved. Keep it in an "
                        f"attribute of its own, an nn.ModuleList, nn.ModuleDict or "
                        f"nn.ParameterList"
                    )


_OF_MODULE = frozenset(vars(nn.Module()))  # torch's own bookkeeping


def _learnable(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, found) of all modules with state and tensors that learn, through plain containers."""
    if isinstance(value, nn.Module):
        if isinstance(value, Part) or any(True for _ in (*value.parameters(), *value.buffers())):
            yield path, value
    elif isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield path, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _learnable(child, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple | set | frozenset):
        for position, child in enumerate(value):
            yield from _learnable(child, f"{path}[{position}]")


def _keep_wide(before: Tensor, after: Tensor) -> Tensor:
    if after.is_floating_point() and after.dtype.itemsize < 4:
        return before.to(after.device)
    return after
