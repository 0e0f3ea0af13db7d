import subprocess
import sys

import pytest
import yaml

from kdbench.errors import ConfigError
from tests.helpers.paths import ROOT

CONF = ROOT / "conf" / "dataset"
STEMS = sorted(path.stem for path in CONF.glob("*.yaml"))


# "folder" has no fixed content: see tests/data/test_folder.py
@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem != "folder"])
def test_every_file_makes_a_dataset_of_its_name(make_dataset, stem):
    assert make_dataset(stem).name == stem


def test_no_reader_imports_torch():
    targets = [yaml.safe_load((CONF / f"{stem}.yaml").read_text())["_target_"] for stem in STEMS]
    imports = "; ".join(f"import {target.rpartition('.')[0]}" for target in targets)
    heavy = "{'torch', 'torchvision', 'sklearn', 'mlxtend', 'pandas', 'pyarrow', 'PIL'}"
    check = f"{imports}; import sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5]}, r"dataset\.mean=\[0\.5\]"),
        ({"std": [0.2] * 4}, r"dataset\.std"),
        ({"std": [0.2, 0.0, 0.2]}, r"dataset\.std=.* must be > 0"),
        ({"val_fraction": 0.0}, r"dataset\.val_fraction=0\.0"),
        ({"val_fraction": 1}, r"dataset\.val_fraction=1"),
        ({"augmentation": {"pad": -1, "flip": True}}, r"dataset\.augmentation\.pad=-1"),
        ({"signal": 1.5}, r"dataset\.signal=1\.5"),
    ],
)
def test_wrong_values_are_refused(make_dataset, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_dataset("fake", **changes)
