"""The usual training loop in plain torch: the baseline of scripts/bench/training.py.

Repositories that distill 32x32 networks train them like this: PIL images and torchvision's
transforms in the workers of a DataLoader; float32, NCHW; eager modules; torch.optim.SGD; a teacher
forward pass for every batch of every run; loss and accuracies by .item() in every step. It has the
optimizations that do not change its structure: persistent workers, pinned memory and non-blocking
copies on CUDA, cuDNN's benchmark mode, gradients set to None. Only the networks come from kdbench,
so that both sides do the same work.

It reads commands from standard input and replies to each with a line of JSON:

    steps N      N training steps; {"seconds": ...}
    batches N    N batches from the loader, without training; {"seconds": ...}
    quit

Each command starts with untimed steps, to use up the batches prefetched while it was idle.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdbench.model import cifar

# The CIFAR-100 recipe of RepDistiller and mdistiller.
TEMPERATURE = 4.0
CE_WEIGHT, KD_WEIGHT = 0.1, 0.9
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
PADDING = 4


class Images(Dataset):
    """Images [N, H, W, C] uint8 in memory, as in torchvision's CIFAR classes."""

    def __init__(
        self, images: np.ndarray, targets: np.ndarray, transform: transforms.Compose
    ) -> None:
        self.images, self.targets, self.transform = images, targets.tolist(), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def main(argv: Sequence[str] | None = None) -> None:
    for reply in serve(parse_arguments(argv), sys.stdin):
        print(json.dumps(reply), flush=True)


def serve(args: argparse.Namespace, lines: Iterable[str]) -> Iterator[dict[str, float]]:
    """Runs each command and yields its time."""
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(args.device)
    batches = endless(make_loader(args))
    teacher = getattr(cifar, args.teacher)(args.classes).to(device)
    teacher.load_state_dict(torch.load(args.weights, weights_only=True)["model"])
    student = getattr(cifar, args.student)(args.classes).to(device)
    optimizer = make_optimizer(student)

    def train(count: int) -> None:
        student.train()
        teacher.eval()
        for _ in range(count):
            images, targets = next(batches)
            images = images.to(device, non_blocking=True)
            targets = targets.to(device, non_blocking=True)
            train_step(student, teacher, optimizer, images, targets)

    def load(count: int) -> None:
        for _ in range(count):
            next(batches)

    work = {"steps": train, "batches": load}
    for line in lines:
        if line.strip() == "quit":
            break
        name, count = line.split()
        work[name](1 + 2 * args.workers)  # DataLoader's prefetch_factor is 2
        began = time.perf_counter()
        work[name](int(count))
        yield {"seconds": time.perf_counter() - began}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, required=True, help="train.images, train.targets")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--mean", type=float, nargs="+", required=True, help="per channel")
    parser.add_argument("--std", type=float, nargs="+", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--teacher", required=True, help="name of its network")
    parser.add_argument("--weights", type=Path, required=True, help="of the teacher")
    parser.add_argument("--student", required=True, help="name of its network")
    parser.add_argument("--workers", type=int, required=True, help="of the DataLoader")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    return parser.parse_args(argv)


def make_loader(args: argparse.Namespace) -> DataLoader:
    arrays = load_file(args.data)
    images, targets = arrays["train.images"], arrays["train.targets"]
    transform = transforms.Compose(
        [
            transforms.RandomCrop(images.shape[1], padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(args.mean, args.std),
        ]
    )
    return DataLoader(
        Images(images, targets, transform),
        batch_size=args.batch_size,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=args.device.startswith("cuda"),
    )


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def make_optimizer(student: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        student.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )


def train_step(
    student: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
) -> tuple[float, float, float]:
    """Loss, and top-1 and top-5 accuracy in percent, of one step."""
    student_logits = student(images)
    with torch.no_grad():
        teacher_logits = teacher(images)
    ce = F.cross_entropy(student_logits, targets)
    loss = CE_WEIGHT * ce + KD_WEIGHT * kd_loss(student_logits, teacher_logits)
    top1, top5 = accuracy(student_logits, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), top1.item(), top5.item()


def kd_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Hinton's loss: KL divergence of the softened outputs times the squared temperature."""
    student = F.log_softmax(student_logits / TEMPERATURE, dim=1)
    teacher = F.softmax(teacher_logits / TEMPERATURE, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def accuracy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hits = logits.detach().topk(5, dim=1).indices == targets[:, None]
    return 100 * hits[:, 0].float().mean(), 100 * hits.any(dim=1).float().mean()


if __name__ == "__main__":
    main()
