"""Networks rewritten to compute the same in less time.

The rewritten network shares its parameters with the original, which does not change and is used
for checkpoints, features and exports.
"""

import logging
import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from kdbench.errors import first_line
from kdbench.model.features import FeatureNetwork, WithFeatures
from kdbench.model.fused_norm import Kernel, NormReLU, is_fusible

log = logging.getLogger(__name__)

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, torch.relu, torch.relu_)
_NOT_TRACED = (
    "%s is not rewritten, and its batch norms are computed separately: its forward pass cannot be "
    "traced (%s)"
)


def fold_norms(network: nn.Module) -> nn.Module:
    """Folds the batch norms of a frozen network into the convolutions before them.

    In evaluation mode a batch norm scales and shifts each channel, which the weights of a
    convolution can include: (W x - mean) / std * gamma + beta = W' x + b'.

    Args:
        network: in evaluation mode; not changed.

    Returns:
        The folded network, or the same one if its forward pass cannot be traced.
    """
    try:
        return fuse(network)  # a copy; skips convolutions whose output is used twice
    except Exception as error:  # a forward pass can raise anything
        log.info(_NOT_TRACED, type(network).__name__, first_line(error))
        return network


def fuse_norms(network: nn.Module, kernel: Kernel | None) -> nn.Module:
    """Fuses the batch norms of a network with the addition and ReLU after them: see ``NormReLU``.

    Args:
        network: in any mode, which may change later.
        kernel: from ``load_kernel``; None for no change.

    Returns:
        The rewritten network; for a network of another project the same one, because tracing would
        fix whatever depends on its mode.
    """
    if kernel is None or not _is_own(network):
        return network
    try:
        traced = fx.symbolic_trace(network)
    except fx.proxy.TraceError as error:
        log.info(_NOT_TRACED, type(network).__name__, first_line(error))
        return network
    for number, node in enumerate(list(_norms(traced))):
        _fuse_norm(traced, node, f"fused_norm{number}", kernel)
    traced.graph.lint()
    traced.recompile()
    return traced


def _is_own(network: nn.Module) -> bool:
    if isinstance(network, WithFeatures):
        # Before an activation a norm may look at its mode, which a trace would fix as it is now.
        return not network.preacts and isinstance(network.network, FeatureNetwork)
    return isinstance(network, FeatureNetwork)


def _norms(traced: fx.GraphModule) -> Iterator[fx.Node]:
    for node in traced.graph.nodes:
        if node.op == "call_module" and is_fusible(traced.get_submodule(node.target)):
            yield node


def _fuse_norm(traced: fx.GraphModule, node: fx.Node, name: str, kernel: Kernel) -> None:
    """Replaces a batch norm, and the addition and ReLU after it if their input has no other use."""
    norm = traced.get_submodule(str(node.target))
    assert isinstance(norm, nn.BatchNorm2d)
    replaced, shortcut = [node], None
    addition = _only_user(node)
    if addition is not None and addition.target in _ADDITIONS:
        operands = [arg for arg in addition.args if isinstance(arg, fx.Node) and arg is not node]
        if len(operands) == 1:
            shortcut = operands[0]
            replaced.append(addition)
    activation = _only_user(replaced[-1])
    relu = activation is not None and _is_relu(traced, activation)
    if activation is not None and relu:
        replaced.append(activation)
    traced.add_submodule(name, NormReLU(norm, relu, kernel))
    arguments = node.args if shortcut is None else (*node.args, shortcut)
    with traced.graph.inserting_before(replaced[-1]):
        fused = traced.graph.call_module(name, arguments)
    replaced[-1].replace_all_uses_with(fused)
    for old in reversed(replaced):
        traced.graph.erase_node(old)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in _RELUS
