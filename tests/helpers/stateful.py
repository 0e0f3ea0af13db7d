"""A student, a strategy and a loss with every kind of state: dropout, norms, learned, random."""

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.objective.base import DistillLoss
from kdbench.temperature.base import Temperatures, TemperatureStrategy


def net(arch, num_classes, in_channels, image_size):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * (image_size // 2) ** 2, num_classes),
    )


class Moody(TemperatureStrategy):
    """Learned, random, and with a memory of its own feedback."""

    def __init__(self, tau):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(tau).log())
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, outputs, progress):
        noise = 1 + 0.1 * torch.rand_like(outputs.logits[0][:, :1])
        tau = self.theta.exp() * noise + 0.01 * self.seen.cos()
        return Temperatures(tau, tau, tau[:, 0] ** 2)

    def observe(self, outputs, progress):
        self.seen += outputs.student.logits.abs().mean()


class Hint(DistillLoss):
    """A projection that learns, and a memory of each sample: all that a loss can keep."""

    needs = frozenset({"features", "index"})

    def __init__(self, momentum):
        super().__init__()
        self.momentum = momentum

    def adapt(self, outputs, num_samples):
        teacher, student = outputs.features
        channels = (features.maps[-1].shape[1] for features in (student, teacher))
        self.projection = nn.Sequential(nn.Conv2d(*channels, 1), nn.ReLU())
        self.register_buffer("memory", torch.zeros(num_samples, student.pooled.shape[1]))

    def forward(self, outputs, temperatures):
        teacher, student = outputs.features
        pooled = F.adaptive_avg_pool2d(student.maps[-1], teacher.maps[-1].shape[2:])
        error = self.projection(pooled) - teacher.maps[-1]
        before = self.memory[outputs.index]
        change = student.pooled.detach() - before
        self.memory[outputs.index] = before + (1 - self.momentum) * change
        return error.square().mean(dim=(1, 2, 3)) + (student.pooled - before).square().mean(dim=1)


class Hidden(TemperatureStrategy):
    """Its parameter is in a plain list, where no optimizer and no checkpoint finds it."""

    def __init__(self, tau):
        super().__init__()
        self.taus = [nn.Parameter(torch.tensor(tau))]
