import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from kdbench.errors import ConfigError

# With mean 0 and std 1/255 normalization is the identity, so images can be compared with pixels.
RAW = {"mean": [0.0] * 3, "std": [1 / 255] * 3}


@pytest.fixture
def make_fake(make_dataset):
    def make(**changes):
        keys = {"train_size": 100, "test_size": 30, "image_size": 8, **RAW, **changes}
        return make_dataset("fake", **keys)

    return make


def _pixels(batch):
    return batch.images.round().to(torch.uint8)


def _train_pixels(dataset):
    return torch.from_numpy(dataset.read().train.images).permute(0, 3, 1, 2)


def _assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a[:4], b[:4], strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (2, False), (0, True), (0, False)])
def test_every_view_is_torchvisions(make_fake, open_dataset, pad, flip):
    dataset = make_fake(augmentation={"pad": pad, "flip": flip}, image_size=6)
    data, images = open_dataset(dataset), _train_pixels(dataset)
    seen = set()
    for batch in (batch for epoch in range(16) for batch in data.train_batches(epoch)):
        for pixels, index, view in zip(_pixels(batch), batch.index, batch.view, strict=True):
            dy, dx, mirrored = dataset.crop_flip.decode(int(view))
            expected = functional.pad(images[index], [pad] * 4)
            expected = functional.crop(expected, dy, dx, 6, 6)
            assert torch.equal(pixels, functional.hflip(expected) if mirrored else expected)
            seen.add(int(view))
    assert seen == set(range(data.num_views))


def test_a_batch_has_the_documented_form(make_fake, open_dataset):
    data = open_dataset(make_fake())
    assert data.image_shape == (3, 8, 8)
    assert (data.num_classes, data.num_train, data.num_views) == (10, 100, 162)
    assert data.eval_sizes == {"test": 30}
    for batch in [next(data.train_batches(0)), next(data.eval_batches("test"))]:
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == batch.index.dtype == torch.int64
    assert batch.view is None


def test_an_epoch_has_every_sample_once_with_its_target(make_fake, open_dataset):
    dataset = make_fake()
    data, targets = open_dataset(dataset), torch.from_numpy(dataset.read().train.targets)
    batches = list(data.train_batches(3))
    index = torch.cat([batch.index for batch in batches])
    assert [len(batch.index) for batch in batches] == [64, 36]
    assert torch.equal(index.sort().values, torch.arange(100))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), targets[index])


def test_batches_do_not_depend_on_the_start(make_fake, open_dataset):
    data = open_dataset(make_fake(batch_size=16))
    whole = list(data.train_batches(2))
    for start in (0, 3, 6):
        _assert_same(data.train_batches(2, start), whole[start:])
    assert list(data.train_batches(2, len(whole))) == []


def test_two_readers_do_not_disturb_each_other(make_fake, open_dataset):
    data = open_dataset(make_fake(batch_size=16))
    alone = list(data.train_batches(1))
    torch.manual_seed(5)
    pairs = list(zip(data.train_batches(1), data.train_batches(1), strict=True))
    _assert_same([first for first, _ in pairs], alone)
    _assert_same([second for _, second in pairs], alone)


def test_a_view_does_not_depend_on_batch_size_or_protocol(make_fake, open_dataset):
    def views(protocol, **changes):
        data = open_dataset(make_fake(**changes), protocol=protocol)
        return {
            int(i): int(v)
            for batch in data.train_batches(4)
            for i, v in zip(batch.index, batch.view, strict=True)
        }

    expected = views("paper")
    assert views("paper", batch_size=7) == expected
    strict = views("strict", val_fraction=0.2)
    assert len(strict) == 80
    assert strict.items() <= expected.items()


def test_evaluation_is_in_order_and_not_augmented(make_fake, open_dataset):
    dataset = make_fake(eval_batch_size=16)
    data = open_dataset(dataset, protocol="strict")
    train, test = dataset.read()[:2]
    sizes = {**data.eval_sizes, "train": data.num_train}
    for split, arrays in (("test", test), ("val", train), ("train", train)):
        batches = list(data.eval_batches(split))
        index = torch.cat([batch.index for batch in batches]).numpy()
        assert (np.diff(index) > 0).all()
        assert sizes[split] == len(index)
        pixels = torch.cat([_pixels(batch) for batch in batches]).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(pixels, arrays.images[index])
        targets = torch.cat([batch.targets for batch in batches])
        np.testing.assert_array_equal(targets, arrays.targets[index])


def test_strict_trains_on_what_it_does_not_validate_on(make_fake, open_dataset):
    data = open_dataset(make_fake(), protocol="strict")
    held = {int(i) for batch in data.eval_batches("val") for i in batch.index}
    train = {int(i) for batch in data.train_batches(0) for i in batch.index}
    assert data.num_train == len(train) == 90
    assert held | train == set(range(100))


def test_unknown_split_is_refused(make_fake, open_dataset):
    with pytest.raises(ConfigError, match="there is no split 'all'; choose from test, train"):
        next(open_dataset(make_fake()).eval_batches("all"))


def test_batches_do_not_depend_on_earlier_calls(make_fake, open_dataset):
    data = open_dataset(make_fake())
    later = list(data.train_batches(1))
    list(data.train_batches(0))
    _assert_same(data.train_batches(1), later)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_batches(make_fake, open_dataset, tmp_path):
    on_gpu = make_fake().open(
        cache=tmp_path, device=torch.device("cuda"), data_seed=7, protocol="paper"
    )
    here = list(open_dataset(make_fake()).train_batches(0))
    _assert_same([[x.cpu() for x in batch] for batch in on_gpu.train_batches(0)], here)
