"""How many learners fit into the memory of a device at once."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from kdbench.config.build import build, build_objective
from kdbench.engine.assemble import adapt, open_data
from kdbench.model.compute import Compute, configure_compute
from kdbench.model.features import WithFeatures, example_output
from kdbench.objective.objective import Objective
from kdbench.outputs import FEATURES, Outputs

SAFETY = 0.8  # fraction of free memory to use: allocator, teacher and data need some too
STATE_COPIES = 5  # weights, gradients, two optimizer buffers, and a copy while saving
_PROBE = 2  # images


def count_fitting(cfgs: Sequence[DictConfig], share: float) -> int:
    """How many of the first runs can train at once; at least one.

    Args:
        cfgs: of runs with the same cohort key.
        share: fraction of the device's memory available to this process, 0 < share <= 1.
    """
    if len(cfgs) < 2:
        return len(cfgs)
    compute = configure_compute(cfgs[0])
    room = SAFETY * share * free_bytes(compute.device)
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}
    states, activations = 0, 0
    for count, cfg in enumerate(cfgs):
        # Some objectives use two views, or features of the teacher.
        kind = cfg.student.arch, cfg.objective.name, cfg.teacher.model.arch
        if kind not in sizes:
            sizes[kind] = measure_learner(cfg, compute)
        state, activation = sizes[kind]
        states += state
        # On a CPU learners take turns; on a GPU the allocator may keep the memory of each.
        together = activations + activation if compute.device.type == "cuda" else activation
        activations = max(activations, together)
        if count and states + activations > room:
            return count
    return len(cfgs)


def measure_learner(cfg: DictConfig, compute: Compute) -> tuple[int, int]:
    """Bytes that a learner needs permanently, and additional bytes during a step.

    The latter are the tensors that autograd saves for the backward pass, measured on a small batch.
    Losses are included if they use features.
    """
    shape = (cfg.dataset.channels, cfg.dataset.image_size, cfg.dataset.image_size)
    with torch.random.fork_rng(devices=[]):
        student, objective = compute.place(build(cfg.student)), build_objective(cfg)
        teacher = build(cfg.teacher.model) if objective.needs & FEATURES else None
        if teacher is not None:
            adapt(objective, teacher, student, open_data(cfg, compute))
    objective.to(compute.device)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        images = torch.zeros(_PROBE, *shape, device=compute.device)
        held = _step(objective, student, teacher, images, compute)
    for parameter in (*student.parameters(), *objective.parameters()):
        kept.pop(parameter.data_ptr(), None)
    del held
    state = STATE_COPIES * _count_bytes([*student.parameters(), *objective.parameters()])
    passes = len(objective.views)
    activations = passes * sum(kept.values()) * cfg.dataset.batch_size // _PROBE
    return state + _count_bytes(objective.buffers()), activations


def _step(
    objective: Objective,
    student: nn.Module,
    teacher: nn.Module | None,
    images: Tensor,
    compute: Compute,
) -> Any:
    """The forward pass, with losses only if they use features; returns what keeps it alive."""
    if teacher is None:
        return compute.forward(compute.fuse(student), images)
    preacts = "preacts" in objective.needs
    network = compute.fuse(WithFeatures(student, preacts))
    _, channels, height, width = images.shape
    shapes = example_output(teacher, (channels, height, width), preacts)
    seen = shapes.map(lambda tensor: torch.zeros(tensor.shape, device=compute.device))
    labels = torch.zeros(len(images), dtype=torch.long, device=compute.device)
    outputs = Outputs(seen, compute.forward_features(network, images), labels, labels)
    views = dict.fromkeys(objective.views[1:], outputs)
    return objective(outputs._replace(views=views or None)).total()


def _count_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def free_bytes(device: torch.device) -> int:
    """Memory currently available to this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # not Linux: free memory, without reclaimable caches
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
