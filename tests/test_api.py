import pytest
import torch
from safetensors.torch import load_file, save_file

import kdbench
from kdbench.digest import state_digest
from kdbench.errors import CheckpointError
from tests.helpers.harness import TINY, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("api")
    assert run(outputs, [*TINY, "method=scratch"]) == 0
    return outputs / "run"


def test_record_curves_and_network_in_three_lines(folder):
    opened = kdbench.load_run(folder)
    curves = opened.curves
    logits = opened.model(torch.zeros(2, 3, 8, 8))
    assert opened.record.status == "done"
    assert curves["epoch"].tolist() == [1, 2, 3]
    assert curves["test/top1"].iloc[-1] == pytest.approx(opened.record.top1_last)
    assert logits.shape == (2, 10)
    assert not opened.model.training
    assert state_digest(opened.model.state_dict()) == opened.record.weights_digest
    assert opened.model is opened.model  # read once


def test_weights_that_differ_from_the_record_are_refused(folder, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "record.json").write_bytes((folder / "record.json").read_bytes())
    state = load_file(folder / "student.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, copy / "student.safetensors")
    with pytest.raises(CheckpointError, match="does not have the weights of its run"):
        _ = kdbench.load_run(str(copy)).model


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="has no record"):
        kdbench.load_run(tmp_path)
