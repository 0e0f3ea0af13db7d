import pytest
from omegaconf import OmegaConf

from kdbench.config.build import build
from kdbench.config.targets import ALLOW_VARIABLE, forbidden_targets
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
    "kdbench.train.os.system",
    "kdbench.train.sys.exit",
    "kdbench.results.environment.subprocess.run",
    "kdbench.files.shutil.rmtree",
    "socket.create_connection",
    "timm.create_model.os.system",
    "urllib.request.urlopen",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused(target):
    assert forbidden_targets({"deep": [{"_target_": target}]}) != []
    with pytest.raises(ConfigError, match="is not allowed"):
        build(OmegaConf.create({"_target_": target}))


@pytest.mark.parametrize("target", [None, 3, ["kdbench"], "", "kdbenchmark.x"])
def test_what_is_no_name_is_refused(target):
    assert forbidden_targets({"_target_": target}) != []


@pytest.mark.parametrize(
    "target",
    ["torch.optim.SGD", "torch.nn.Linear", "kdbench.temperature.constant.Constant"],
)
def test_useful_targets_are_allowed(target):
    assert forbidden_targets({"_target_": target}) == []


def test_the_user_allows_a_package_and_the_config_cannot(monkeypatch):
    node = {"_target_": "collections.OrderedDict"}
    assert forbidden_targets(node) != []
    monkeypatch.setenv(ALLOW_VARIABLE, "other,collections")
    assert forbidden_targets(node) == []
