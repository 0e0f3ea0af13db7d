import pickle
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from kdbench.config.build import build
from kdbench.config.compose import CONF
from kdbench.config.targets import ALLOW_VARIABLE, forbidden_targets, iter_targets
from kdbench.errors import ConfigError

HOSTILE = [
    "os.system",
    "os.popen",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "importlib.import_module",
    "runpy.run_path",
    "shutil.rmtree",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "code.InteractiveInterpreter",
    "ctypes.CDLL",
    "webbrowser.open",
    "logging.os.system",
    "kdbench.cli.train.os.system",
    "kdbench.cli.train.sys.exit",
    "kdbench.records.environment.subprocess.run",
    "kdbench.files.shutil.rmtree",
    "socket.create_connection",
    "timm.create_model.os.system",
    "urllib.request.urlopen",
    # what reads, writes, fetches or unpickles in packages that were allowed as a whole
    "torchvision.models._api.WeightsEnum.get_state_dict",
    "torchvision.models.get_model",
    "torchvision.models.resnet18",
    "timm.models.load_state_dict",
    "timm.models.load_checkpoint",
    "timm.models._helpers.load_state_dict",
    "timm.create_model",
    "timm.models.create_model",
    "timm.models.load_model_config_from_hf",
    "timm.models.resnet.resnet18",
    "torch.nn.Linear",
    "torch.nn.Module.load_state_dict",
    "torch.optim.Optimizer.load_state_dict",
    "torch.optim.swa_utils.AveragedModel",
    "torch.optim.sgd.SGD",
    # kdbench's own functions, and classes that are no part of a run
    "kdbench.files.write_atomic",
    "kdbench.files.remove_leftovers",
    "kdbench.model.checkpoint.save_weights",
    "kdbench.engine.state.Checkpoints",
    "kdbench.records.record.RunRecord",
    "kdbench.records.rows.write_metrics",
    "kdbench.records.identity.RunIdentity",
    "kdbench.data.cache.load_or_build",
    "kdbench.data.pickled._ArraysOnly",
    "kdbench.model.checkpoint.load_weights",
    "kdbench.cli.train.main",
    "kdbench.config.build.build",
    "kdbench.launch.local.LocalExecutor",
    # other names of things
    "kdbench.model.load.torch.load",
    "kdbench.evaluation.trained.load_weights",
    "kdbench.objective.objective.nn.Module",
    "kdbench.temperature.ctkd.CTKD.load_state_dict",
    "kdbench.temperature.constant.Constant.__class__",
    "kdbench.temperature.constant.Schedule",
    "kdbench.load_model",
    "antigravity.x",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused(target):
    assert forbidden_targets({"deep": [{"_target_": target}]}) != []
    with pytest.raises(ConfigError, match="is not allowed"):
        build(OmegaConf.create({"_target_": target}))


@pytest.mark.parametrize("target", [None, 3, ["kdbench"], "", "kdbenchmark.x"])
def test_what_is_no_name_is_refused(target):
    assert forbidden_targets({"_target_": target}) != []


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_optimizers_of_torch_are_allowed(name):
    assert forbidden_targets({"_target_": f"torch.optim.{name}"}) == []


def test_everything_that_conf_names_is_allowed():
    nodes = {
        str(path.relative_to(CONF)): yaml.safe_load(path.read_text())
        for path in sorted(CONF.rglob("*.yaml"))
        if "hydra" not in path.parts[len(CONF.parts) :]  # nodes.py looks after those
    }
    assert sum(1 for _ in iter_targets(nodes)) > 100
    assert forbidden_targets(nodes) == []


MODULE = """
from torch import nn
from torch.nn import Linear
from kdbench.objective.base import DistillLoss
import os, pickle

class Net(nn.Linear): ...
class Loss(DistillLoss):
    def forward(self, outputs, temperatures): ...
class Runner:
    def __init__(self, command): os.system(command)
def make_net(arch): return Net(1, 1)
"""


@pytest.mark.parametrize(
    ("allowed", "target", "expected"),
    [
        ("mypackage", "mypackage.parts.Net", True),
        ("other,mypackage.parts", "mypackage.parts.Loss", True),
        ("mypackage", "mypackage.parts.Runner", False),
        ("mypackage", "mypackage.parts.make_net", False),
        ("mypackage.parts.make_net", "mypackage.parts.make_net", True),
        ("mypackage.parts.Net", "mypackage.parts.Loss", False),
        ("mypackage", "mypackage.parts.Linear", False),
        ("mypackage", "mypackage.parts.os.system", False),
        ("mypackage", "mypackage.parts.pickle.loads", False),
        ("mypack", "mypackage.parts.Net", False),
        ("", "mypackage.parts.Net", False),
        ("torch.nn", "torch.nn.Linear", True),
        ("torch.nn", "torch.nn.utils.clip_grad_norm_", False),
    ],
)
def test_the_user_allows_code_and_the_config_cannot(
    monkeypatch, tmp_path, allowed, target, expected
):
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ALLOW_VARIABLE, allowed)
    assert (forbidden_targets({"_target_": target}) == []) is expected


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda node: node,
        lambda node: {"_target_": "kdbench.objective.kl.KL", "more": {"deep": [node]}},
        lambda node: {"_target_": "kdbench.objective.kl.KL", "_args_": [node]},
        lambda node: {"_target_": "kdbench.objective.kl.KL", "_recursive_": False, "x": node},
        lambda node: {**node, "_partial_": True},
        lambda node: {**node, "_convert_": "object"},
        lambda node: {"_args_": list(node.values())[1:], "_target_": node["_target_"]},
    ],
)
@pytest.mark.parametrize("target", ["torch.load", "timm.models.load_state_dict", "builtins.open"])
def test_no_marker_appears(tmp_path, target, wrap):
    marker, file = tmp_path / "marker", tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(Payload(str(marker))))
    node = {
        "torch.load": {"_target_": target, "f": str(file), "weights_only": False},
        "timm.models.load_state_dict": {
            "_target_": target,
            "checkpoint_path": str(file),
            "weights_only": False,
        },
        "builtins.open": {"_target_": target, "file": str(marker), "mode": "w"},
    }[target]
    with pytest.raises(ConfigError, match="is not allowed"):
        build(OmegaConf.create(wrap(node)))
    with pytest.raises(ConfigError, match="is not allowed"):
        build(wrap(node))
    assert not marker.exists()


@pytest.mark.parametrize(
    "option",
    [
        {"pretrained": True},
        {"checkpoint_path": "FILE"},
        {"pretrained_cfg": {"url": "file://FILE"}},
        {"pretrained_cfg_overlay": {"file": "FILE"}},
        {"cache_dir": "/tmp"},
        {"weights_backbone": "DEFAULT"},
    ],
)
@pytest.mark.parametrize("arch", ["timm:resnet10t", "torchvision:resnet18"])
def test_arguments_of_load_model_fetch_and_open_nothing(tmp_path, arch, option):
    marker, file = tmp_path / "marker", tmp_path / "weights.pth"
    torch.save({"x": Payload(str(marker))}, file)
    text = repr(option).replace("FILE", str(file))
    node = {"_target_": "kdbench.model.load.load_model", "arch": arch, "num_classes": 2}
    with pytest.raises(Exception, match=r"takes no option") as caught:
        build({**node, **yaml.safe_load(text)})
    assert isinstance(caught.value.__cause__ or caught.value, ConfigError)
    assert not marker.exists()


@pytest.mark.parametrize("arch", ["timm:hf_hub:someone/net", "timm:hf-hub:someone/net"])
def test_names_of_a_hub_are_unknown(arch):
    node = {"_target_": "kdbench.model.load.load_model", "arch": arch, "num_classes": 2}
    with pytest.raises(Exception, match="unknown network"):
        build(node)


def test_weights_with_a_payload_are_refused(tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "weights.pth"
    torch.save({"x": Payload(str(marker))}, file)
    node = {"_target_": "kdbench.model.load.load_model", "arch": "resnet8", "num_classes": 2}
    with pytest.raises(Exception, match=r"refused, found the Python object"):
        build({**node, "weights": str(file)})
    assert not marker.exists()


def test_plain_data_is_taken_by_the_letter(monkeypatch):
    monkeypatch.setenv("CANARY", "canary")
    node = {"_target_": "kdbench.temperature.constant.Constant", "tau": "${oc.env:CANARY}"}
    for wrong in (node, OmegaConf.create({**node, "tau": r"\${oc.env:CANARY}"})):
        with pytest.raises(ConfigError, match="is not a plain value") as caught:
            build(wrong)
        assert "canary" not in str(caught.value)
