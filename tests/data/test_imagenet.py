import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kdbench.data import loader
from kdbench.data.fixmatch import FixMatch
from kdbench.errors import ConfigError, DataError, LoaderError, known_error

SMALL = {
    "num_classes": 3,
    "image_size": 16,
    "eval_resize": 20,
    "batch_size": 5,
    "eval_batch_size": 4,
    "workers": 0,
}


@pytest.fixture
def photos(tmp_path):
    """8 + 4 photographs of each of 3 classes, of various sizes; one gray, one with a palette."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in range(3):
            folder = tmp_path / split / f"n0{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    gray = Image.open(tmp_path / "train" / "n00" / "0.JPEG").convert("L")
    gray.save(tmp_path / "train" / "n00" / "0.JPEG")
    Image.open(tmp_path / "val" / "n00" / "0.JPEG").convert("P").save(
        tmp_path / "val" / "n00" / "0.JPEG", "PNG"
    )
    return tmp_path


@pytest.fixture
def open_photos(photos, make_dataset, open_dataset):
    def open_it(data_seed=7, protocol="paper", **changes):
        dataset = make_dataset("imagenet", root=str(photos), **{**SMALL, **changes})
        return open_dataset(dataset, data_seed, protocol)

    return open_it


def _same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(x, y)
        for a, b in zip(first, second, strict=True)
        for x, y in zip(a[:3], b[:3], strict=True)
    )


def test_batches_have_the_documented_form(open_photos):
    data = open_photos()
    assert (data.num_train, data.steps_per_epoch, data.num_views) == (24, 5, None)
    assert (data.image_shape, data.eval_sizes) == ((3, 16, 16), {"test": 12})
    for batch in (*data.train_batches(0), *data.eval_batches("test")):
        assert batch.images.shape[1:] == (3, 16, 16)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == batch.index.dtype == torch.int64
        assert batch.view is None


def test_an_epoch_has_every_image_once(open_photos):
    batches = list(open_photos().train_batches(0))
    index = torch.cat([batch.index for batch in batches])
    assert torch.equal(index.sort().values, torch.arange(24))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), index // 8)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_bit(open_photos, workers):
    alone, shared = open_photos(), open_photos(workers=workers)
    assert _same(shared.train_batches(1), alone.train_batches(1))
    assert _same(shared.train_batches(1, start=3), list(alone.train_batches(1))[3:])
    assert _same(shared.eval_batches("test"), alone.eval_batches("test"))


def test_images_depend_only_on_seed_epoch_and_sample(open_photos):
    def images(data, epoch):
        batches = data.train_batches(epoch)
        return {int(i): image for b in batches for i, image in zip(b.index, b.images, strict=True)}

    first = images(open_photos(), 0)
    resized = images(open_photos(batch_size=7), 0)
    assert all(torch.equal(first[i], resized[i]) for i in first)
    for other in (images(open_photos(), 1), images(open_photos(data_seed=8), 0)):
        assert not any(torch.equal(first[i], other[i]) for i in first)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_is_left_alone(open_photos, workers):
    before = torch.get_rng_state()
    data = open_photos(workers=workers)
    first = list(data.train_batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert _same(data.train_batches(0), first)


def test_nothing_before_start_is_decoded(open_photos, monkeypatch):
    decoded = []
    read = loader.read_image
    monkeypatch.setattr(
        loader, "read_image", lambda file, *rest: decoded.append(file) or read(file, *rest)
    )
    list(open_photos().train_batches(0, start=3))
    assert len(decoded) == 24 - 3 * 5


def test_evaluation_is_torchvisions(open_photos, photos):
    transform = v2.Compose(
        [
            v2.Resize(20),
            v2.CenterCrop(16),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted((photos / "val").glob("*/*.JPEG"))
    expected = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    images = torch.cat([batch.images for batch in open_photos().eval_batches("test")])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_strict_holds_out_part_of_train(open_photos):
    data = open_photos(protocol="strict", val_fraction=0.25)
    held = {int(i) for batch in data.eval_batches("val") for i in batch.index}
    train = {int(i) for batch in data.train_batches(0) for i in batch.index}
    assert data.eval_sizes == {"test": 12, "val": 6}
    assert data.num_train == 18
    assert held | train == set(range(24))
    assert held == {
        int(i)
        for batch in open_photos(protocol="strict", val_fraction=0.25, data_seed=1).eval_batches(
            "val"
        )
        for i in batch.index
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(open_photos, photos, workers):
    path = photos / "train" / "n01" / "3.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=f"^{path} cannot be decoded .*$"):
        list(open_photos(workers=workers).train_batches(0))


def test_classes_and_folders_are_checked(open_photos, photos, make_dataset, tmp_path):
    with pytest.raises(DataError, match=r"3 class folders.* dataset\.num_classes=1000"):
        open_photos(num_classes=1000)
    (photos / "val" / "n02").rename(photos / "val" / "n03")
    with pytest.raises(DataError, match="only in one of them: n02, n03"):
        open_photos()
    with pytest.raises(DataError, match=rf"{tmp_path}/nowhere.*dataset\.root=FOLDER"):
        make_dataset("imagenet", root=str(tmp_path / "nowhere")).source(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_resize": 200}, "eval_resize=200"),
        ({"workers": -1}, "workers=-1"),
        (
            {"augmentation": {"crop_scale": [1, 0.1], "crop_ratio": [1, 1], "flip": True}},
            r"crop_scale=\[1, 0\.1\]",
        ),
    ],
)
def test_wrong_values_are_refused(make_dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_dataset("imagenet", root="data", **changes)


@pytest.mark.shared
def test_a_flat_folder_of_real_photographs(shared, make_dataset, open_dataset):
    dataset = make_dataset(
        "imagenet",
        root=str(shared / "data" / "imagenet-sample"),
        train_dir=".",
        val_dir=".",
        num_classes=143,
        workers=2,
        batch_size=64,
    )
    data = open_dataset(dataset)
    batches = [*data.train_batches(0), *data.eval_batches("test")]
    assert [len(batch.targets) for batch in batches] == [64, 64, 15, 143]
    assert all(batch.images.shape[1:] == (3, 224, 224) for batch in batches)
    alone = next(data.train_batches(0, start=2))
    assert _same([batches[2]], [alone])


@pytest.mark.parametrize("workers", [0, 1])
def test_strong_views_have_their_own_crop(open_photos, workers):
    whole = FixMatch(num_ops=0, cutout=0.0, own_crop=True)
    own = open_photos(workers=workers, views={"strong": whole})
    batches = list(own.train_batches(0, views=["strong"]))
    assert _same(batches, open_photos().train_batches(0))
    assert not any(
        torch.equal(x, y) for b in batches for x, y in zip(b.images, b.views["strong"], strict=True)
    )
    shared = open_photos(views={"strong": replace(whole, own_crop=False)})
    assert all(
        torch.equal(b.images, b.views["strong"]) for b in shared.train_batches(0, views=["strong"])
    )


def test_strong_views_do_not_depend_on_workers_or_batches(open_photos):
    def views(**changes):
        batches = open_photos(**changes).train_batches(0, views=["strong"])
        return {int(i): s for b in batches for i, s in zip(b.index, b.views["strong"], strict=True)}

    first, second = views(), views(workers=2, batch_size=7)
    assert all(torch.equal(first[i], second[i]) for i in first)


def _fail_to_share(_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left (28)")


@pytest.mark.timeout(60)
def test_too_little_shared_memory_is_an_error_instead_of_a_hang(open_photos, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", _fail_to_share)
    with pytest.raises(LoaderError, match=r"cannot share a batch of .* MiB.*/dev/shm.*shm-size"):
        list(open_photos(workers=1).train_batches(0))
    assert LoaderError.exit_code == 6


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(60)
def test_a_killed_decoder_is_named(open_photos, monkeypatch):
    monkeypatch.setattr(loader, "read_image", _die)
    with pytest.raises(RuntimeError) as caught:
        list(open_photos(workers=1).train_batches(0))
    known = known_error(caught.value)
    assert isinstance(known, LoaderError)
    assert "DataLoader worker (pid" in str(known)
    assert "dataset.workers" in str(known)
