import json
from pathlib import Path

import pytest
from test_record import make_record

from kdbench.config.compose import compose_config, save_config
from kdbench.config.identity import resolve_config, stable_config
from kdbench.results.collect import RunFolder
from kdbench.results.recall import recall_config

CHOICES = [
    ["method=scratch"],
    ["method=ctkd", "temperature.tau_range=7"],
    ["temperature=cosine", "optim.lr=0.3", "seed=4", "plugin=dot"],
    ["dataset=cifar100", "pair=resnet56_resnet20", "run.protocol=strict", "run.precision=auto"],
    ["dataset=fake", "dataset.image_size=8", "student=timm", "teacher.epochs=7"],
]


def record_of(cfg):
    """What a run of a config would say of itself."""
    plain = json.loads(json.dumps(resolve_config(cfg)))
    distils = bool(plain["objective"]["terms"])
    return make_record(
        config=json.loads(json.dumps(stable_config(cfg))),
        pair=plain["pair"],
        student=plain["student"]["arch"],
        teacher=plain["teacher"]["model"]["arch"] if distils else None,
        teacher_config=plain["teacher"] if distils else None,
    )


@pytest.mark.parametrize("overrides", CHOICES, ids=lambda choice: choice[0])
@pytest.mark.parametrize("keeps_config", [True, False])
def test_a_config_comes_back(tmp_path, overrides, keeps_config):
    cfg = compose_config([*overrides, "paths.data=/there", "run.checkpoint_epochs=3"])
    record = record_of(cfg)
    if keeps_config:
        save_config(cfg, tmp_path)
    found = recall_config(RunFolder(tmp_path, record), ["paths.cache=/here", "run.threads=2"])
    assert stable_config(found) == record.config
    assert found.pair == record.pair
    assert (found.paths.cache, found.run.threads) == ("/here", 2)
    assert found.run.checkpoint_epochs == (3 if keeps_config else 1)
    if record.teacher_config is not None:
        assert resolve_config(found)["teacher"] == record.teacher_config
    if "root" in found.dataset:
        assert found.dataset.root == ("/there" if keeps_config else "data")


def test_a_key_that_came_later_has_its_usual_value(tmp_path):
    cfg = compose_config(["dataset=fake"])
    save_config(cfg, tmp_path)
    path = tmp_path / ".hydra" / "config.yaml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "checkpoint_minutes" not in line))
    found = recall_config(RunFolder(tmp_path, record_of(cfg)))
    assert found.run.checkpoint_minutes == cfg.run.checkpoint_minutes


def test_paths_are_followed_where_others_depend_on_them(tmp_path):
    cfg = compose_config(["dataset=cifar100"])
    save_config(cfg, tmp_path)
    found = recall_config(RunFolder(Path(tmp_path), record_of(cfg)), ["paths.data=/elsewhere"])
    assert found.dataset.root == "/elsewhere"
