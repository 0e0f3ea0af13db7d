import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from kdbench.data.fixmatch import OPERATIONS, FixMatch
from kdbench.errors import ConfigError
from tests.helpers.pillow_calls import PILLOW, pictures

RELEASED = FixMatch(num_ops=2, cutout=0.5, own_crop=True)


def _released_view(image, operations, corners):
    """The released program's calls, with given draws."""
    image = Image.fromarray(image)
    for number, magnitude in operations:
        image = PILLOW[OPERATIONS[number][0]](image, magnitude)
    image = image.copy()
    ImageDraw.Draw(image).rectangle(corners, (125, 123, 114))
    return np.asarray(image)


def test_every_view_equals_the_released_program():
    images, index = pictures(32, 32, 3, count=200), np.arange(200) * 7
    found = RELEASED(torch.from_numpy(images), 3, 5, index)
    operations = RELEASED.draw_operations(3, 5, index)
    corners = RELEASED.draw_cutout(3, 5, index, 32, 32)
    for row, image in enumerate(images):
        mine = [(choice[row], magnitude[row]) for choice, magnitude in operations]
        expected = _released_view(image, mine, corners[:, row].tolist())
        np.testing.assert_array_equal(found[row].numpy(), expected)


def test_draws_have_the_released_distributions():
    index = np.arange(40_000)
    operations = RELEASED.draw_operations(0, 0, index)
    assert len(operations) == 2
    for choice, magnitude in operations:
        count = np.bincount(choice, minlength=14)
        assert abs(count / len(index) - 1 / 14).max() < 0.006
        for number, (_, low, high) in enumerate(OPERATIONS):
            drawn = magnitude[choice == number]
            quarters = np.quantile(drawn, [0, 0.25, 0.5, 0.75, 1])
            np.testing.assert_allclose(
                quarters, np.linspace(low, high, 5), atol=0.04 * (high - low)
            )
    assert abs(np.corrcoef(operations[0][0], operations[1][0])[0, 1]) < 0.02
    # numpy.random.uniform(32) of the released program draws from 32 down to 1.
    x0, y0, x1, y1 = RELEASED.draw_cutout(0, 0, index, 32, 32)
    rng = np.random.default_rng(0)
    side, x = rng.random(len(index)) * 16, 32 - 31 * rng.random(len(index))
    start = np.maximum(0, x - side / 2).astype(int)
    end = np.minimum(32, start + side).astype(int)
    for mine, theirs in ((x0, start), (y0, start), (x1, end), (y1, end)):
        assert mine.mean() == pytest.approx(theirs.mean(), abs=0.2)
        assert mine.std() == pytest.approx(theirs.std(), abs=0.2)
    covered = (np.minimum(x1, 31) - x0 + 1) * (np.minimum(y1, 31) - y0 + 1) / 1024
    assert covered.mean() == pytest.approx(0.084, abs=0.001)


def test_without_operations_and_cutout_nothing_changes():
    images = torch.from_numpy(pictures(8, 8, 1))
    nothing = FixMatch(num_ops=0, cutout=0.0, own_crop=False)
    assert torch.equal(nothing(images, 0, 0, np.arange(60)), images)


def test_large_batches_are_processed_in_blocks(monkeypatch):
    images, index = torch.from_numpy(pictures(32, 32, 3)), np.arange(60)
    whole = RELEASED(images, 0, 0, index)
    monkeypatch.setattr("kdbench.data.fixmatch._BLOCK", 7 * 3072)
    assert torch.equal(RELEASED(images, 0, 0, index), whole)


@pytest.mark.parametrize(("key", "value"), [("num_ops", -1), ("cutout", 1.5), ("cutout", -0.1)])
def test_wrong_values_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"dataset\.views\.strong\.{key}={value} must be"):
        FixMatch(**{"num_ops": 2, "cutout": 0.5, "own_crop": True, key: value})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same_bits():
    images, index = torch.from_numpy(pictures(32, 32, 3)), np.arange(60)
    on_gpu = RELEASED(images.cuda(), 0, 0, index)
    assert torch.equal(on_gpu.cpu(), RELEASED(images, 0, 0, index))
