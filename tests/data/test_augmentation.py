import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from kdbench.data.augmentation import CropFlip
from kdbench.errors import ConfigError


@pytest.mark.parametrize(
    ("pad", "flip", "num_views"), [(4, True, 162), (4, False, 81), (0, True, 2), (0, False, 1)]
)
def test_decode_lists_every_view_once(pad, flip, num_views):
    augmentation = CropFlip(pad, flip)
    assert augmentation.num_views == num_views
    decoded = list(zip(*augmentation.decode(np.arange(num_views)), strict=True))
    side = range(2 * pad + 1)
    assert decoded == [(dy, dx, f) for dy in side for dx in side for f in range(1 + flip)]


def test_decode_takes_numbers_arrays_and_tensors():
    augmentation = CropFlip(4, True)
    assert augmentation.decode(161) == (8, 8, 1)
    dy, dx, flip = augmentation.decode(torch.tensor([0, 19, 161]))
    assert (dy.tolist(), dx.tolist(), flip.tolist()) == ([0, 1, 8], [0, 0, 8], [0, 1, 1])


def test_a_view_depends_on_seed_epoch_and_sample_only():
    augmentation, index = CropFlip(4, True), np.arange(1000)
    views = augmentation.draw(1, 2, index)
    np.testing.assert_array_equal(augmentation.draw(1, 2, index[::-1])[::-1], views)
    assert augmentation.draw(1, 2, np.array([37]))[0] == views[37]
    assert (augmentation.draw(1, 3, index) != views).mean() > 0.9
    assert (augmentation.draw(2, 2, index) != views).mean() > 0.9


def test_views_are_uniform_over_samples_and_over_epochs():
    augmentation = CropFlip(4, True)
    over_samples = augmentation.draw(0, 0, np.arange(50_000))
    over_epochs = np.concatenate([augmentation.draw(0, e, np.array([5])) for e in range(8000)])
    for views in (over_samples, over_epochs):
        assert stats.chisquare(np.bincount(views, minlength=162)).pvalue > 1e-3


def test_views_of_neighboring_epochs_are_independent():
    augmentation, index = CropFlip(1, True), np.arange(50_000)
    table = np.zeros((18, 18))
    np.add.at(table, (augmentation.draw(0, 0, index), augmentation.draw(0, 1, index)), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_same_distribution_as_torchvision():
    # Pixels count from 1, so the center pixel of a crop tells where the crop was.
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5)
    augmentation = CropFlip(2, True)
    transform = v2.Compose([v2.RandomCrop(5, padding=2), v2.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crops = [transform(image)[0] for _ in range(5000)]
    theirs = np.zeros((25, 2))
    for crop in crops:
        row = (crop != 0)[2].nonzero().squeeze()
        flipped = int(crop[2, row[0]] > crop[2, row[-1]])
        theirs[int(crop[2, 2]) - 1, flipped] += 1
    ours = np.bincount(augmentation.draw(0, 0, np.arange(50_000)), minlength=50)
    assert stats.chi2_contingency(np.stack([theirs.ravel(), ours])).pvalue > 1e-3


@pytest.mark.parametrize(("pad", "flip"), [(-1, True), (1.5, True), (True, True), (4, 1)])
def test_wrong_values_are_refused(pad, flip):
    with pytest.raises(ConfigError, match=r"dataset\.augmentation"):
        CropFlip(pad, flip)
