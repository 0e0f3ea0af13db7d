"""An installed wheel does what the checkout does, from any folder."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
QUICK = ["method=scratch,kd", "temperature=constant", "seed=0", "run.epochs=1", "teacher.epochs=1"]
QUICK += ["teacher=resnet8", "tracker=csv", "run.threads=1"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command of an environment that has the wheel, in an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("kdbench-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    shared = Path(yaml.__file__).parents[1]  # its own .pth files are not read
    (packages / "shared.pth").write_text(str(shared))
    here = folder / "empty"
    here.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(name, *arguments):
        command = [folder / "env" / "bin" / name, *arguments]
        done = subprocess.run(command, cwd=here, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.here = here
    return run


def test_all_of_it_is_from_the_wheel(installed):
    code = "import kdbench, kdbench.config.compose as c, hydra_plugins.kdbench_tuned as h;"
    said = installed("python", "-c", f"{code} print(kdbench.__file__, c.CONF, h.__file__)")
    assert all("/env/lib/" in place for place in said.split())


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_explains_itself(installed, script):
    assert script in installed(script, "--help")


def test_configs_and_published_settings_are_there(installed):
    chosen = ["dataset=cifar100", "pair=resnet56_resnet20", "method=ttm"]
    assert "exponent: 0.3" in installed("kdbench-train", "--cfg", "job", *chosen)
    assert "ttm_cifar100" in installed("kdbench-table")


def test_the_demo_begins_in_an_empty_folder(installed):
    said = installed("kdbench-table", "demo", *QUICK)
    assert "2 of 2 runs" in said
    assert (installed.here / "outputs" / "tables" / "demo" / "report.html").is_file()
