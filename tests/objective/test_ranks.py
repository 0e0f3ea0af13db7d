"""Learned temperatures on several ranks of a data-parallel loop."""

import os

import pytest
import torch
import torch.distributed as dist

from kdbench import Progress, load_objective
from kdbench.objective import objective as objective_module
from tests.helpers.harness import context
from tests.helpers.outputs import of

STEPS, BATCH, CLASSES = 12, 8, 10


def train(rank, ranks, folder, method):
    """Trains one rank on its part of every batch; writes the result to a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store{ranks}", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    objective = load_objective(method).double()
    if rank:
        for parameter in objective.parameters():  # ranks start from different values
            torch.nn.init.constant_(parameter, 0.1)
    objective.distribute()
    torch.manual_seed(0)
    student = torch.nn.Linear(6, CLASSES).double()
    student = torch.nn.parallel.DistributedDataParallel(student)
    groups = [{"params": student.parameters()}, *objective.param_groups()]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        images = torch.randn(BATCH, 6, generator=generator).double()
        teacher = 3 * torch.randn(BATCH, CLASSES, generator=generator).double()
        own = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        targets = torch.arange(BATCH)[own]
        progress = Progress(step, STEPS, step, STEPS)
        logits = student(images[own])
        optimizer.zero_grad()
        outputs = of(teacher[own], logits, targets)
        objective(outputs, progress).total().backward()
        optimizer.step()
        objective.observe(outputs, progress)
    learned = {name: value.detach() for name, value in objective.named_parameters()}
    torch.save(learned, f"{folder}/{ranks}-{rank}.pt")
    dist.destroy_process_group()


def learn(folder, ranks, method):
    processes = [
        context().Process(target=train, args=(rank, ranks, str(folder), method))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    return [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize(
    "method", ["ctkd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mkd", "rlkd"))]
)
def test_two_ranks_learn_the_same(tmp_path, method):
    first, second = learn(tmp_path, 2, method)
    start = dict(load_objective(method).double().named_parameters())
    assert any(not torch.equal(first[name], start[name]) for name in first)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    if method == "ctkd":  # the others treat a rank's part as a whole batch
        (alone,) = learn(tmp_path, 1, method)
        for name in first:  # the same as one process on whole batches
            torch.testing.assert_close(first[name], alone[name], rtol=1e-6, atol=1e-9)


def test_unsynchronized_ranks_are_rejected(monkeypatch):
    monkeypatch.setattr(objective_module, "count_ranks", lambda: 2)
    arguments = (torch.randn(4, 10), torch.randn(4, 10, requires_grad=True), torch.arange(4))
    for method in ("ctkd", "mkd", "rlkd"):
        objective = load_objective(method)
        with pytest.raises(RuntimeError, match=r"2 ranks.*objective.distribute\(\)"):
            objective.from_logits(*arguments)
        with torch.no_grad():  # evaluation does not learn
            objective.from_logits(*arguments)
    load_objective("kd").from_logits(*arguments)  # has nothing to learn


def test_distribute_needs_a_process_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        load_objective("ctkd").distribute()
