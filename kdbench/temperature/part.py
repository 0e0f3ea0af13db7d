"""Base class of strategies and losses: parts of an objective, possibly with parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdbench.outputs import Outputs, find_unknown_needs
from kdbench.progress import Progress


class Part(nn.Module):
    """A strategy or a loss.

    It gets ``Outputs`` in float32 or wider and always runs without autocast. Ordinary parameters,
    in the part itself or in any submodule, are trained, saved, moved and restored with the run.
    Parts may contain parts.

    Attributes:
        needs: its inputs besides logits and targets: names from ``kdbench.outputs.NEEDS``.
        trains_itself: whether it steps its own parameters in ``observe``; they are then excluded
            from the run's optimizer.
        weight_decay: of its own parameters; None uses the optimizer's.
    """

    needs: frozenset[str] = frozenset()
    trains_itself: bool = False
    weight_decay: float | None = None

    def __call__(self, outputs: Outputs, *args: Any, **kwargs: Any) -> Any:
        """``forward`` in full precision."""
        with full_precision(outputs):
            return super().__call__(outputs.widen(), *args, **kwargs)

    def adapt(self, outputs: Outputs, num_samples: int) -> None:
        """Builds modules that depend on feature shapes; called once, before creating the optimizer.

        Args:
            outputs: of an example batch. Only shapes matter: tensors may be on the meta device.
            num_samples: N, size of the full train split: ``outputs.index`` lies in [0, N).
        """

    def param_groups(self) -> list[dict]:
        """Optimizer groups of its own parameters, without those of inner parts."""
        own = [] if self.trains_itself else self.own_parameters()
        if not own:
            return []
        group: dict[str, Any] = {"params": own}
        return [
            group if self.weight_decay is None else {**group, "weight_decay": self.weight_decay}
        ]

    def own_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that do not belong to an inner part."""
        inner = {
            id(parameter)
            for module in self.modules()
            if module is not self and isinstance(module, Part)
            for parameter in module.parameters()
        }
        return [p for p in self.parameters() if p.requires_grad and id(p) not in inner]

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Feedback after every optimizer step, with its outputs; a no-op by default.

        Args:
            outputs: of the view that the part uses, without gradient.
            progress: position in training.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Like ``nn.Module``, but stays in float32 on ``half()`` and ``bfloat16()``."""
        return super()._apply(lambda tensor: _keep_wide(tensor, fn(tensor)), recurse)


def full_precision(outputs: Outputs) -> AbstractContextManager:
    """Disables autocast: in low precision, a difference of large sums is lost."""
    device = outputs.student.logits.device.type
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def find_parts(module: nn.Module) -> list[Part]:
    """The parts in a module, itself included, outermost first."""
    return [each for each in module.modules() if isinstance(each, Part)]


def union_of_needs(parts: Iterable[Part]) -> frozenset[str]:
    """The combined needs of these parts.

    Raises:
        ValueError: one of them has an unknown need.
    """
    needs: set[str] = set()
    for part in parts:
        unknown = find_unknown_needs(part.needs)
        if unknown:
            raise ValueError(
                f"{type(part).__name__}.needs has {', '.join(map(repr, unknown))}; allowed are "
                f"features, preacts, index, labels (kdbench/outputs.py)"
            )
        needs |= part.needs
    return frozenset(needs)


def require_registered(module: nn.Module) -> None:
    """Rejects unregistered modules and parameters: they would not be trained, saved or moved.

    A module does not register what is in a plain list, tuple, set or dict.

    Raises:
        ValueError: an attribute has one; the message names it.
    """
    known = {id(each) for each in (*module.modules(), *module.parameters())}
    for owner in module.modules():
        for name, value in vars(owner).items():
            if name in _OF_MODULE:
                continue
            for path, found in _learnable(value, name):
                if id(found) not in known:
                    raise ValueError(
                        f"{type(owner).__name__}.{path} is an unregistered "
                        f"{type(found).__name__}: it would not be trained, saved or moved. Assign "
                        f"it to an attribute, or use an nn.ModuleList, nn.ModuleDict or "
                        f"nn.ParameterList"
                    )


_OF_MODULE = frozenset(vars(nn.Module()))  # torch's own bookkeeping


def _learnable(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, found) of modules with state and trainable tensors, also in plain containers."""
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
