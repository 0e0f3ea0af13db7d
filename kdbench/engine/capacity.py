"""How many learners fit into the memory of a device, beside each other."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from kdbench.config.build import build, build_objective
from kdbench.model.compute import Compute, configure_compute

SAFETY = 0.8  # part of the free memory that is used: allocators, teacher and data need some too
STATE_COPIES = 5  # weights, gradients, two optimizer buffers, and one more while a state is saved
_PROBE = 2  # images


def count_fitting(cfgs: Sequence[DictConfig], share: float) -> int:
    """How many of these runs, from the first on, may train at once; at least one.

    Args:
        cfgs: of runs with one cohort key.
        share: part of the device's memory that belongs to this process, 0 < share <= 1.
    """
    if len(cfgs) < 2:
        return len(cfgs)
    compute = configure_compute(cfgs[0])
    room = SAFETY * share * free_bytes(compute.device)
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    states, activations = 0, 0
    for count, cfg in enumerate(cfgs):
        kind = cfg.student.arch, cfg.objective.name  # some objectives look at two views
        if kind not in sizes:
            sizes[kind] = measure_learner(cfg, compute)
        state, activation = sizes[kind]
        states += state
        # On a CPU learners take turns; on a GPU the allocator may hold what each of them used.
        together = activations + activation if compute.device.type == "cuda" else activation
        activations = max(activations, together)
        if count and states + activations > room:
            return count
    return len(cfgs)


def measure_learner(cfg: DictConfig, compute: Compute) -> tuple[int, int]:
    """Bytes that a learner holds all the time, and those it holds during a step.

    The second are the tensors that autograd keeps for the backward pass, counted on a small batch.
    """
    with torch.random.fork_rng(devices=[]):
        student = compute.place(build(cfg.student))
    network = compute.fuse(student)
    shape = (_PROBE, cfg.dataset.channels, cfg.dataset.image_size, cfg.dataset.image_size)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    parameters = {p.data_ptr() for p in student.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = compute.forward(network, torch.zeros(shape, device=compute.device))
    for pointer in parameters:
        kept.pop(pointer, None)
    del logits
    state = STATE_COPIES * sum(p.numel() * p.element_size() for p in student.parameters())
    passes = 2 if build_objective(cfg).needs_strong_view else 1
    return state, passes * sum(kept.values()) * cfg.dataset.batch_size // _PROBE


def free_bytes(device: torch.device) -> int:
    """Memory that this process could get now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # not Linux: what is free right now, caches not counted
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
