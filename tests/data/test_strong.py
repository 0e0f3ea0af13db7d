import torch

from kdbench.data.strong import StrongAugmentation

RECIPE = {"num_ops": 2, "magnitude": 10}


def pixels(count=6, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 32, 32, channels), generator=generator, dtype=torch.uint8)


def test_it_depends_on_seed_epoch_and_sample_only():
    augment, images, index = StrongAugmentation(RECIPE), pixels(), torch.arange(6)
    torch.manual_seed(5)
    found = augment(images, 1, 2, index)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    order = torch.tensor([4, 2, 0])
    assert torch.equal(augment(images[order], 1, 2, index[order]), found[order])
    assert not torch.equal(augment(images, 1, 3, index), found)
    assert not torch.equal(augment(images, 2, 2, index), found)


def test_it_changes_images_and_keeps_their_form():
    for channels in (1, 3):
        images = pixels(64, channels)
        found = StrongAugmentation(RECIPE)(images, 0, 0, torch.arange(64))
        assert (found.shape, found.dtype) == (images.shape, torch.uint8)
        changed = (found != images).flatten(1).any(1).float().mean()
        assert changed > 0.8


def test_the_second_view_changes_nothing_else(make_dataset, open_dataset):
    data = open_dataset(make_dataset("fake", train_size=40, test_size=8, batch_size=16))
    plain, double = list(data.train_batches(0)), list(data.train_batches(0, strong=True))
    assert all(batch.strong is None for batch in plain)
    for one, two in zip(plain, double, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.index, two.index)
        assert two.strong.shape == two.images.shape
        assert two.strong.dtype == torch.float32
    later = next(iter(data.train_batches(0, start=1, strong=True)))
    assert torch.equal(later.strong, double[1].strong)
