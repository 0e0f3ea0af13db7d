import argparse
import logging
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdbench.digest import file_digest, state_digest
from kdbench.errors import CheckpointError
from kdbench.model import cifar
from kdbench.model.checkpoint import fit_weights, load_weights
from kdbench.model.load import load_model
from tests.helpers.compat_fill import SHARED

TEACHER = SHARED / "teachers" / "resnet56_vanilla" / "ckpt_epoch_24.pth"


def network(arch="resnet8", num_classes=10, seed=0):
    torch.manual_seed(seed)
    return getattr(cifar, arch)(num_classes)


def state(**arguments):
    return network(**arguments).state_dict()


def optimizer_state():
    """As in the zoos: the decayed learning rate is a numpy scalar."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.05)
    optimizer.param_groups[0]["lr"] = np.float64(0.05) * 0.1 ** np.int64(3)
    return optimizer.state_dict()


def read_and_fit(path, model, arch, **arguments):
    fit_weights(model, load_weights(path, **arguments), path, arch)


def refusal(path, model=None, arch="resnet8", **arguments):
    with pytest.raises(CheckpointError) as caught:
        read_and_fit(path, network() if model is None else model, arch, **arguments)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 4
    return str(caught.value)


def assert_holds(weights, expected):
    assert state_digest(weights.state) == state_digest(expected)


class TestContainers:
    @pytest.mark.parametrize(
        ("zipped", "numpy_1"), [(True, False), (False, False), (False, True)], ids=str
    )
    def test_repdistiller_teacher(self, tmp_path, zipped, numpy_1):
        path = tmp_path / "ckpt_epoch_240.pth"
        found = {"epoch": 240, "model": state(), "accuracy": torch.tensor([72.34])}
        found["optimizer"] = optimizer_state()
        torch.save(found, path, _use_new_zipfile_serialization=zipped)
        if numpy_1:
            old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            path.write_bytes(old)
            assert b"cnumpy.core.multiarray\nscalar" in old
        weights = load_weights(path)
        assert_holds(weights, state())
        assert weights.top1 == pytest.approx(72.34)
        assert (weights.epoch, weights.container, weights.arch) == (240, "RepDistiller", None)
        assert weights.digest == file_digest(path)

    def test_repdistiller_last(self, tmp_path):
        options = argparse.Namespace(model="resnet8", lr_decay_epochs=[150, 180], cosine=False)
        found = {"opt": options, "model": state(), "optimizer": optimizer_state()}
        torch.save(found, tmp_path / "resnet8_last.pth")
        weights = load_weights(tmp_path / "resnet8_last.pth")
        assert_holds(weights, state())
        assert (weights.top1, weights.epoch, weights.container) == (None, None, "RepDistiller")

    @pytest.mark.parametrize("role", ["student", "teacher"])
    def test_mdistiller_run(self, tmp_path, role):
        both = {"student": state(seed=1), "teacher": state(arch="resnet14", seed=2)}
        keys = {f"module.{r}.{k}": t for r, net in both.items() for k, t in net.items()}
        keys["module.embed.weight"] = torch.zeros(2)
        found = {"epoch": 7, "model": keys, "optimizer": optimizer_state()}
        torch.save({**found, "best_acc": torch.tensor([61.5])}, tmp_path / "latest")
        weights = load_weights(tmp_path / "latest", role)
        assert_holds(weights, both[role])
        assert (weights.top1, weights.epoch, weights.container) == (61.5, 7, "mdistiller")

    def test_mdistiller_before_its_first_evaluation_claims_no_accuracy(self, tmp_path):
        keys = {f"module.student.{key}": tensor for key, tensor in state().items()}
        torch.save({"epoch": 0, "model": keys, "best_acc": -1}, tmp_path / "latest")
        assert load_weights(tmp_path / "latest").top1 is None
        assert "no teacher" in refusal(tmp_path / "latest", role="teacher")

    def test_mdistiller_student(self, tmp_path):
        torch.save({"model": state()}, tmp_path / "student_best")
        weights = load_weights(tmp_path / "student_best")
        assert_holds(weights, state())
        assert weights.container == "mdistiller"

    @pytest.mark.parametrize(
        ("extra", "key", "container"),
        [
            ({"args": argparse.Namespace(seed=1), "best_value": 70.0}, "model", "torchdistill"),
            ({"epoch": 3}, "model_state", "pycls"),
            ({"arch": "resnet8", "state_dict_ema": {}}, "state_dict", "timm"),
        ],
    )
    def test_other_containers(self, tmp_path, extra, key, container):
        torch.save({**extra, key: state()}, tmp_path / "file.pth")
        weights = load_weights(tmp_path / "file.pth")
        assert_holds(weights, state())
        assert weights.container == container
        assert weights.arch == extra.get("arch")

    def test_facts_in_another_form_are_no_facts(self, tmp_path):
        accuracy = {"top1": 60.0, "top5": 80.0}
        torch.save({"model": state(), "accuracy": accuracy, "epoch": "best"}, tmp_path / "file.pth")
        weights = load_weights(tmp_path / "file.pth")
        assert (weights.top1, weights.epoch) == (None, None)

    def test_data_parallel_prefix_is_stripped_and_said(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        torch.save({f"module.{k}": t for k, t in state().items()}, tmp_path / "bare.pth")
        weights = load_weights(tmp_path / "bare.pth")
        assert_holds(weights, state())
        assert weights.container == "state dict"
        assert "stripped the prefix 'module.'" in caplog.text

    def test_safetensors(self, tmp_path):
        path = tmp_path / "resnet8.safetensors"
        save_file(state(), path, {"top1": "60.25", "arch": "resnet8"})
        weights = load_weights(path)
        assert_holds(weights, state())
        assert (weights.top1, weights.arch, weights.container) == (60.25, "resnet8", "safetensors")

    @pytest.mark.shared
    @pytest.mark.skipif(not TEACHER.is_file(), reason="no ../shared/teachers")
    def test_real_teacher(self):
        weights = load_weights(TEACHER)
        assert weights.top1 == pytest.approx(68.80, abs=0.005)
        assert weights.epoch == 24
        model = load_model("resnet56", num_classes=100, weights=TEACHER)
        assert state_digest(model.state_dict()) == state_digest(weights.state)


class TestRefusals:
    def test_missing_directory_and_empty(self, tmp_path):
        assert "no such file" in refusal(tmp_path / "none.pth")
        assert "directory" in refusal(tmp_path)
        (tmp_path / "empty.pth").touch()
        assert "0 bytes" in refusal(tmp_path / "empty.pth")

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"\n<!DOCTYPE html><html><body>404", "HTML page"),
            (b"<html>Quota exceeded", "HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ],
    )
    def test_what_a_failed_download_leaves(self, tmp_path, suffix, content, words):
        path = tmp_path / f"teacher.{suffix}"
        path.write_bytes(content)
        message = refusal(path)
        assert "not a checkpoint" in message
        assert words in message

    @pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
    @pytest.mark.parametrize("part", [0.3, 0.99])
    def test_truncated(self, tmp_path, kind, part):
        path = tmp_path / ("t.safetensors" if kind == "safetensors" else "t.pth")
        if kind == "safetensors":
            save_file(state(), path)
        else:
            torch.save(state(), path, _use_new_zipfile_serialization=kind == "zip")
        size = int(path.stat().st_size * part)
        path.write_bytes(path.read_bytes()[:size])
        message = refusal(path)
        assert "truncated or corrupt" in message
        assert f"{size:,} bytes" in message

    @pytest.mark.parametrize("content", [os.urandom(500), b"hello world\n" * 9, b"PK\x03\x04zip"])
    def test_noise(self, tmp_path, content):
        (tmp_path / "noise.pth").write_bytes(content)
        assert "truncated or corrupt" in refusal(tmp_path / "noise.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_malicious_pickle_does_not_run(self, tmp_path, zipped):
        marker = tmp_path / "marker"

        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        path = tmp_path / "evil.pth"
        options = argparse.Namespace(payload=Payload())
        torch.save({"model": state(), "opt": options}, path, _use_new_zipfile_serialization=zipped)
        message = refusal(path)
        assert "refused" in message
        assert "mkdir" in message
        assert not marker.exists()

    def test_a_whole_pickled_module(self, tmp_path):
        torch.save(network(), tmp_path / "module.pth")
        message = refusal(tmp_path / "module.pth")
        assert "kdbench.model.cifar.resnet.ResNet" in message
        assert "whole pickled module" in message
        assert "state dict" in message

    def test_without_weights(self, tmp_path):
        path = tmp_path / "file.pth"
        torch.save({"epoch": 3, "optimizer": optimizer_state()}, path)
        assert "no network weights in it, found epoch, optimizer" in refusal(path)
        torch.save(optimizer_state(), path)
        assert "found param_groups, state" in refusal(path)
        torch.save({}, path)
        assert "found nothing" in refusal(path)
        torch.save([torch.zeros(2)], path)
        assert "found list" in refusal(path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, tmp_path, value):
        weights = state()
        weights["layer2.0.bn1.running_var"][3] = value
        torch.save({"model": weights}, tmp_path / "nan.pth")
        assert "layer2.0.bn1.running_var" in refusal(tmp_path / "nan.pth")

    def test_the_allow_list_ends_with_the_call(self, tmp_path):
        before = set(torch.serialization.get_safe_globals())
        torch.save({"model": state(), "optimizer": optimizer_state()}, tmp_path / "file.pth")
        load_weights(tmp_path / "file.pth")
        assert set(torch.serialization.get_safe_globals()) == before


class TestFit:
    def test_another_architecture_is_guessed(self, tmp_path):
        path = tmp_path / "teacher.pth"
        torch.save({"model": state(arch="resnet20", num_classes=100)}, path)
        model = network("resnet8x4", 100)
        before = state_digest(model.state_dict())
        lines = refusal(path, model, "resnet8x4").splitlines()
        assert lines[0].endswith("weights do not fit resnet8x4")
        assert lines[1] == (
            "  6 missing: layer1.0.downsample.0.weight, layer1.0.downsample.1.weight, "
            "layer1.0.downsample.1.bias"
        )
        assert lines[2].startswith("  72 unexpected: layer1.1.conv1.weight, ")
        assert "conv1.weight (16, 3, 3, 3) for (32, 3, 3, 3)" in lines[3]
        assert "looks like resnet20;" in lines[4]
        assert state_digest(model.state_dict()) == before

    @pytest.mark.parametrize("arch", ["wrn_40_2", "vgg13", "shufflenetv2", "resnet110"])
    def test_guesses_other_families(self, tmp_path, arch):
        torch.save(state(arch=arch), tmp_path / "teacher.pth")
        assert f"looks like {arch};" in refusal(tmp_path / "teacher.pth")

    def test_a_file_of_the_network_that_was_chosen_is_not_sent_back_to_it(self, tmp_path):
        found = {**state(arch="resnet56"), "extra.weight": torch.zeros(3)}
        for name, container in (("said", {"arch": "resnet56"}), ("guessed", None)):
            path = tmp_path / f"{name}.safetensors"
            save_file(found, path, container)
            said = refusal(path, network("resnet56"), "resnet56")
            assert "the file is a modified resnet56" in said
            assert "choose that network" not in said

    def test_a_name_in_the_file_beats_the_guess(self, tmp_path):
        path = tmp_path / "teacher.safetensors"
        save_file(state(arch="resnet20"), path, {"arch": "resnet20_mine"})
        assert "looks like resnet20_mine;" in refusal(path)

    def test_a_foreign_network_is_not_guessed(self, tmp_path):
        torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "linear.pth")
        assert "none of the 32x32 networks" in refusal(tmp_path / "linear.pth")

    @pytest.mark.parametrize(
        ("arch", "layer"),
        [
            ("resnet8", "fc.weight"),
            ("vgg8", "classifier.weight"),
            ("mobilenetv2", "classifier.0.weight"),
            ("timm:test_vit", "head.weight"),
        ],
    )
    @pytest.mark.parametrize("num_classes", [1000, 1])
    def test_another_number_of_classes(self, tmp_path, arch, layer, num_classes):
        path = tmp_path / "teacher.pth"
        torch.save({"model": load_model(arch, num_classes).state_dict()}, path)
        message = refusal(path, load_model(arch, 100), arch)
        assert f"file has {num_classes} classes, dataset has 100 ({layer}" in message

    def test_other_input_channels_are_no_class_mismatch(self, tmp_path):
        torch.save(state(), tmp_path / "rgb.pth")
        message = refusal(tmp_path / "rgb.pth", cifar.resnet8(10, in_channels=1))
        assert "1 of another shape: conv1.weight (16, 3, 3, 3) for (16, 1, 3, 3)" in message

    @pytest.mark.parametrize("arch", ["resnet18", "resnet34"])
    def test_imagenet_names_are_renamed_and_said(self, tmp_path, caplog, arch):
        caplog.set_level(logging.INFO)
        source = state(arch=arch)
        path = tmp_path / f"{arch}_best.pth"
        imagenet = {
            key.replace("linear.", "fc.").replace(".shortcut.", ".downsample."): tensor
            for key, tensor in source.items()
        }
        torch.save({"epoch": 1, "model": imagenet, "best_acc": torch.tensor([70.0])}, path)
        model = load_model(arch, 10, weights=path)
        assert state_digest(model.state_dict()) == state_digest(source)
        assert "renamed fc to linear and downsample to shortcut" in caplog.text


class _Overlapping:
    """A billion elements in four bytes."""

    tensor = torch.zeros(1).expand(10**9)


def _quantized():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (_quantized, "quantized"),
        (lambda: torch.ones(3, device="meta"), "meta"),
        (lambda: _Overlapping.tensor, "overlapping"),
        (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "float8"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    ],
)
def test_tensors_that_are_not_dense_are_refused(tmp_path, make, words):
    path = tmp_path / "odd.pth"
    torch.save({"conv1.weight": make()}, path)
    with pytest.raises(CheckpointError, match=r"odd\.pth") as caught:
        load_weights(path)
    assert words in str(caught.value) or "corrupt" in str(caught.value)
