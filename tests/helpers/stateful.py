"""A student and a strategy that keep every kind of state: dropout, batch norm, learned, random."""

import torch
from torch import nn

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

    def forward(self, teacher_logits, student_logits, targets, progress):
        noise = 1 + 0.1 * torch.rand_like(teacher_logits[:, :1])
        tau = self.theta.exp() * noise + 0.01 * self.seen.cos()
        return Temperatures(tau, tau, tau[:, 0] ** 2)

    def observe(self, student_logits, targets, progress):
        self.seen += student_logits.abs().mean()
