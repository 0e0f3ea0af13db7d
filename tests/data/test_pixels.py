"""Every operation, image by image, against the Pillow calls that the released program makes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from kdbench.data import pixels
from kdbench.data.fixmatch import OPERATIONS
from tests.helpers.pillow_calls import PILLOW, pictures


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (7, 9, 3), (2, 2, 3), (224, 224, 3)])
@pytest.mark.parametrize(("name", "low", "high"), OPERATIONS, ids=[o[0] for o in OPERATIONS])
def test_equal_to_pillow_to_the_last_bit(name, low, high, shape):
    images = pictures(*shape, count=6 if shape[0] > 100 else 60)
    magnitude = np.random.default_rng(1).uniform(low, high, len(images))
    expected = [
        np.asarray(PILLOW[name](Image.fromarray(image.squeeze(2) if shape[2] == 1 else image), v))
        for image, v in zip(images, magnitude.tolist(), strict=True)
    ]
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    found = getattr(pixels, name)(planes, torch.from_numpy(magnitude))
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(
        found.permute(0, 2, 3, 1).numpy(), np.stack(expected).reshape(images.shape)
    )


def test_rectangles_are_pillows():
    images = pictures(12, 16, 3)
    rng = np.random.default_rng(2)
    corners = np.concatenate([c := rng.integers(0, 17, (2, 60)), c + rng.integers(0, 9, (2, 60))])
    expected = []
    for image, box in zip(images, corners.T.tolist(), strict=True):
        canvas = Image.fromarray(image)
        ImageDraw.Draw(canvas).rectangle(box, (125, 123, 114))
        expected.append(np.asarray(canvas))
    found = pixels.fill_rectangles(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(corners),
        torch.tensor([125, 123, 114], dtype=torch.uint8),
    )
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), np.stack(expected))
