"""A student that takes its time, so that a test can disturb its training on any machine."""

import os
import time

from torch import nn


class Slow(nn.Sequential):
    def forward(self, images):
        if self.training:
            time.sleep(float(os.environ["PAUSE"]))
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
