import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from PIL import Image

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config, run_key
from kdbench.config.overrides import compose_checked
from kdbench.errors import ConfigError, DataError, known_error


def fill(folder, classes=3, count=10, size=(16, 16)):
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(count):
            width, height = size if isinstance(size, tuple) else (size + number, size)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")


def compose(root, *overrides):
    own = ["dataset=folder", f"dataset.root={root}", f"paths.outputs={root.parent / 'out'}"]
    return compose_config([*own, "method=scratch", *overrides])


def opened(cfg, tmp_path, protocol="paper"):
    device = torch.device("cpu")
    cache = tmp_path / "cache"
    return build(cfg.dataset).open(cache=cache, device=device, data_seed=0, protocol=protocol)


@pytest.mark.parametrize("test", ["val", "test", "valid", "validation"])
def test_train_and_test_folders_are_found_and_recorded(tmp_path, test):
    fill(tmp_path / "mine" / "train")
    fill(tmp_path / "mine" / test, count=4)
    cfg = compose(tmp_path / "mine")
    plain = resolve_config(cfg)
    assert plain["dataset"]["found"] == {"train": 30, "test": 12, "sizes": "16x16"}
    assert (plain["dataset"]["num_classes"], plain["dataset"]["image_size"]) == (3, 16)
    assert plain["student"]["num_classes"] == plain["teacher"]["model"]["num_classes"] == 3
    data = opened(cfg, tmp_path)
    assert (data.num_classes, data.num_train, data.eval_sizes) == (3, 30, {"test": 12})
    assert data.class_names == ("class0", "class1", "class2")
    assert data.num_views == 162  # in memory, as CIFAR
    assert next(iter(data.train_batches(0))).images.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("below", [".", "train"])
def test_without_a_test_folder_a_fixed_part_of_each_class_is_held_out(tmp_path, below):
    fill(tmp_path / "mine" / below)
    cfg = compose(tmp_path / "mine")
    train, test = build(cfg.dataset).splits
    assert (len(train.files), len(test.files)) == (24, 6)
    assert not set(train.files) & set(test.files)
    assert np.bincount(test.targets).tolist() == [2, 2, 2]
    for split in (train, test):
        names = [file.parent.name for file in split.files]
        assert [f"class{label}" for label in split.targets] == names
    assert opened(cfg, tmp_path, "strict").eval_sizes == {"test": 6, "val": 3}
    quarter = build(compose(tmp_path / "mine", "dataset.test_fraction=0.5").dataset)
    assert len(quarter.splits[1].files) == 15
    assert quarter.source(tmp_path).digest != build(cfg.dataset).source(tmp_path).digest


def test_images_of_many_sizes_are_photographs(tmp_path):
    fill(tmp_path / "mine", size=40)
    cfg = compose(tmp_path / "mine", "dataset.workers=0")
    assert cfg.dataset.found.sizes == "40x40 to 49x40"
    assert (cfg.dataset.image_size, cfg.dataset.eval_resize) == (224, 256)
    data = opened(cfg, tmp_path)
    assert data.num_views is None
    own = ["dataset.image_size=32", "dataset.eval_resize=36", "dataset.workers=0"]
    batch = next(iter(opened(compose(tmp_path / "mine", *own), tmp_path).train_batches(0)))
    assert batch.images.shape[1:] == (3, 32, 32)


def test_the_run_key_follows_the_content_and_not_the_place(tmp_path):
    for name in ("one", "two"):
        fill(tmp_path / name)
    first, second = (run_key(compose(tmp_path / name)) for name in ("one", "two"))
    assert first == second
    fill(tmp_path / "three")
    Image.new("RGB", (16, 16)).save(tmp_path / "three" / "class0" / "0.png")
    assert run_key(compose(tmp_path / "three")) != first


def test_it_passes_the_checks_of_a_config(tmp_path):
    fill(tmp_path / "mine")
    cfg = compose_checked(["dataset=folder", f"dataset.root={tmp_path / 'mine'}", "method=kd"])
    assert OmegaConf.to_container(cfg.dataset, resolve=True)["num_classes"] == 3


def _nothing(root):
    return r"dataset\.root=.*mine' is not a folder.*dataset\.root=DIR"


def _file(root):
    root.write_text("")
    return r"dataset\.root=.*mine' is not a folder"


def _empty(root):
    root.mkdir()
    return "mine has no class folders"


def _one_class(root):
    fill(root, classes=1)
    return "only one class folder, class0; 2 are needed"


def _two_tests(root):
    for name in ("train", "val", "test"):
        fill(root / name)
    return r"has val/, test/: choose the test folder with .*, such as dataset\.test_dir=val"


def _other_classes(root):
    fill(root / "train", classes=3)
    fill(root / "val", classes=2)
    return "only in one of them: class2"


def _too_few(root):
    fill(root, count=1)
    return r"dataset\.test_fraction=0\.2 splits 3 .* into 3 for training and 0 for testing"


@pytest.mark.parametrize(
    "spoil",
    [_nothing, _file, _empty, _one_class, _two_tests, _other_classes, _too_few],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_an_invalid_folder_is_a_data_error(tmp_path, spoil):
    message = spoil(tmp_path / "mine")
    cfg = compose(tmp_path / "mine")  # which goes on until the dataset itself says what is wrong
    with pytest.raises(DataError, match=message):
        run_key(cfg)


def test_of_two_test_folders_one_can_be_chosen(tmp_path):
    _two_tests(tmp_path / "mine")
    cfg = compose(tmp_path / "mine", "dataset.test_dir=test")
    assert {file.parts[-3] for file in build(cfg.dataset).splits[1].files} == {"test"}
    with pytest.raises(DataError, match=r"dataset\.test_dir=probe: .* must contain it and train/"):
        run_key(compose(tmp_path / "mine", "dataset.test_dir=probe"))


def test_a_wrong_fraction_is_a_config_error(tmp_path):
    cfg = compose(tmp_path, "dataset.test_fraction=1.5")
    with pytest.raises(InstantiationException) as caught:
        build(OmegaConf.create(resolve_config(cfg)["dataset"]))
    known = known_error(caught.value)
    assert isinstance(known, ConfigError)
    assert "dataset.test_fraction=1.5 must be between 0 and 1" in str(known)
