import numpy as np
import pytest
import torch

from kdbench.config.build import build
from kdbench.config.overrides import compose_checked
from kdbench.data.fixmatch import FixMatch
from kdbench.data.randaugment import RandAugment

VIEWS = {
    "fixmatch": FixMatch(num_ops=2, cutout=0.5, own_crop=True),
    "randaugment": RandAugment(num_ops=2, magnitude=10, own_crop=False),
}


def pixels(count=6, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 32, 32, channels), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("augment", VIEWS.values(), ids=VIEWS)
def test_it_depends_on_seed_epoch_and_sample_only(augment):
    images, index = pixels(), np.arange(6)
    torch.manual_seed(5)
    found = augment(images, 1, 2, index)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    order = [4, 2, 0]
    assert torch.equal(augment(images[order], 1, 2, index[order]), found[order])
    assert not torch.equal(augment(images, 1, 3, index), found)
    assert not torch.equal(augment(images, 2, 2, index), found)


@pytest.mark.parametrize("augment", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_changes_images_but_not_shape_or_type(augment, channels):
    images = pixels(64, channels)
    found = augment(images, 0, 0, np.arange(64))
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert (found != images).flatten(1).any(1).float().mean() > 0.8


@pytest.mark.parametrize("view", VIEWS)
def test_the_second_view_changes_nothing_else(make_dataset, open_dataset, view):
    sizes = {"train_size": 40, "test_size": 8, "batch_size": 16}
    data = open_dataset(make_dataset("fake", view, **sizes))
    plain, double = list(data.train_batches(0)), list(data.train_batches(0, views=["strong"]))
    assert all(batch.views is None for batch in plain)
    for one, two in zip(plain, double, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.index, two.index)
        assert two.views["strong"].shape == two.images.shape
        assert two.views["strong"].dtype == torch.float32
    later = next(iter(data.train_batches(0, start=1, views=["strong"])))
    assert torch.equal(later.views["strong"], double[1].views["strong"])


def _strong_by_sample(data):
    batches = data.train_batches(0, views=["strong"])
    return {int(i): s for b in batches for i, s in zip(b.index, b.views["strong"], strict=True)}


def test_strong_views_do_not_depend_on_the_batch(make_dataset, open_dataset, monkeypatch):
    first, second = (
        _strong_by_sample(
            open_dataset(make_dataset("fake", train_size=40, test_size=8, batch_size=size))
        )
        for size in (16, 7)
    )
    monkeypatch.setattr("kdbench.data.tensors._STRONG_AT_ONCE", 20)
    data = open_dataset(make_dataset("fake", train_size=40, test_size=8, batch_size=7))
    third = _strong_by_sample(data)
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(first[i], second[i]) for i in first)
    assert all(torch.equal(first[i], third[i]) for i in first)


@pytest.mark.parametrize("own", [True, False])
def test_crop_and_flip_are_independent_of_or_shared_with_the_weak_view(
    make_dataset, open_dataset, own
):
    same = FixMatch(num_ops=0, cutout=0.0, own_crop=own)
    data = open_dataset(make_dataset("fake", train_size=64, test_size=8, views={"strong": same}))
    batch = next(iter(data.train_batches(0, views=["strong"])))
    equal = (batch.images == batch.views["strong"]).flatten(1).all(1)
    assert equal.float().mean() < 0.1 if own else equal.all()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=mlkd"], "fixmatch"),
        (["method=mlkd_logit_std"], "fixmatch"),
        (["method=mlkd_atkd", "dataset=imagenet"], "fixmatch"),
        (["method=cskd_two_view"], "fixmatch"),
        (["method=mlkd", "view=randaugment"], "randaugment"),
    ],
)
def test_the_released_view_is_the_default_and_can_be_replaced(overrides, expected):
    cfg = compose_checked(overrides)
    assert build(cfg.dataset.views.strong) == VIEWS[expected]
