"""A student that takes its time, so that a test can disturb its training on any machine."""

import os
import sys
from pathlib import Path

from torch import nn

from tests.helpers.waiting import hold_at, take_time

if Path(sys.argv[0]).stem == "worker":  # not the launcher, which repeats what workers say
    hold_at(os.environ.get("HOLD_AT", ""))


class Slow(nn.Sequential):
    def forward(self, images):
        if self.training:
            take_time(float(os.environ["PAUSE"]))
        return super().forward(images)


def net(arch, num_classes, in_channels, image_size):
    return Slow(
        nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * (image_size // 2) ** 2, num_classes),
    )
