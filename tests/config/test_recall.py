import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdbench.config.compose import compose_config, save_config
from kdbench.config.identity import resolve_config, stable_config
from kdbench.config.recall import open_run, recall_config
from kdbench.errors import ConfigError
from kdbench.records.collect import RunFolder
from tests.records.test_record import make_record

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


@pytest.mark.parametrize("override", ["paths.outputs=", "paths.data= ", "teacher.weights="])
def test_an_empty_value_is_no_path(tmp_path, override):
    cfg = compose_config(["dataset=fake"])
    with pytest.raises(ConfigError, match=f"{override} has no value"):
        recall_config(RunFolder(tmp_path, record_of(cfg)), [override])


@pytest.fixture
def received(tmp_path):
    """A run's folder whose record somebody has changed, with the right digest."""
    cfg = compose_config(["dataset=fake"])
    save_config(cfg, tmp_path)

    def write(change=lambda plain: None, **fields):
        record = record_of(cfg)
        sent = {"config": record.config, "teacher_config": record.teacher_config}
        plain = json.loads(json.dumps(sent))
        change(plain)
        names = {"dataset": "fake", "method": "kd", "temperature": "constant", "objective": "kd"}
        replace(record, **{**names, **plain, **fields}).write(tmp_path)
        return tmp_path

    return write


def put(path, value):
    def change(plain):
        *above, last = path.split(".")
        for name in above:
            plain = plain[name]
        plain[last] = value

    return change


OPENED = {"_target_": "builtins.open", "file": "MARKER", "mode": "w"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("config.student", {**OPENED, "arch": "x"}), "_target_='builtins.open'"),
        (put("config.student.extra", OPENED), "config.student.extra: _target_"),
        (put("config.student.list", [[{"deep": OPENED}]]), "_target_='builtins.open'"),
        (put("config.student._args_", ["resnet8", 10, "x.pth"]), "positional arguments"),
        (put("config.objective.terms.kd.loss", {**OPENED, "_partial_": True}), "_target_"),
        (put("config.optim.optimizer", {**OPENED, "_recursive_": False}), "_target_"),
        (put("config.plugin._target_", "kdbench.files.remove_leftovers"), "remove_leftovers"),
        (put("teacher_config.model", {**OPENED, "arch": "x"}), "teacher_config.model: _target_"),
        (put("config.student.arch", "${oc.env:CANARY}"), "not a plain value"),
        (put("config.student.num_classes", "${oc.decode:${oc.env:CANARY}}"), "not a plain value"),
        (lambda plain: plain["config"].update({"${oc.env:CANARY}": 1}), "not a plain value"),
        (put("config.objective.name", "${kdbench.groups:}"), "not a plain value"),
        (put("config.seed", "${dataset.name}"), "not a plain value"),
        (put("teacher_config.weights", "/x/${oc.env:CANARY}"), "not a plain value"),
        (put("config.dataset.name", "../../x"), "is not a name"),
    ],
)
def test_a_received_record_is_data(received, monkeypatch, change, words):
    monkeypatch.setenv("CANARY", "canary")
    folder = received(change)
    with pytest.raises(ConfigError, match="not as kdbench writes it") as caught:
        open_run(folder)
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)
    assert not Path("MARKER").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "${oc.env:CANARY}"},
        {"pair": "${oc.env:CANARY}"},
        {"teacher": "${oc.env:CANARY}"},
        {"pair": "../../x"},
        {"method": "a/b"},
    ],
)
def test_so_are_its_names(received, monkeypatch, fields):
    monkeypatch.setenv("CANARY", "canary")
    with pytest.raises(ConfigError) as caught:
        open_run(received(**fields))
    assert "canary" not in str(caught.value)


def test_a_sound_record_is_opened(received):
    assert recall_config(open_run(received())).dataset.name == "fake"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("paths.data", "${oc.env:CANARY}"),
        ("dataset.root", "/a/${oc.env:CANARY}"),
        ("paths.cache", "${oc.decode:${paths.data}}"),
        ("run.threads", "${oc.create:1}"),
        ("paths.data", "${paths.${x}}"),
    ],
)
def test_a_saved_config_reads_nothing_from_the_environment(received, monkeypatch, key, text):
    monkeypatch.setenv("CANARY", "canary")
    folder = received()
    saved = folder / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(saved)
    OmegaConf.update(cfg, key, text, force_add=True)
    OmegaConf.save(cfg, saved)
    with pytest.raises(ConfigError, match=f"{key}=.* is not a plain value") as caught:
        recall_config(open_run(folder))
    assert "canary" not in str(caught.value)
    if key == "paths.data":  # but who opens it may say what it is
        found = recall_config(open_run(folder), [f"{key}=/here"])
        assert found.paths.data == "/here"


@pytest.mark.parametrize(
    "text",
    ["a: [", "\tx", "[1, 2]", "a: &x [1]\nb: [*x, *x]", "\x00", "x: " + "[" * 5000, "- 1"],
)
def test_a_broken_saved_config_is_reported(received, text):
    folder = received()
    (folder / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read .*remove it"):
        recall_config(open_run(folder))


def test_only_the_user_starts_a_download(received):
    folder = received(put("config.dataset.download", True))
    assert "download" not in recall_config(open_run(folder)).dataset
    cfg = compose_config(["dataset=cifar100", "dataset.download=true"])
    save_config(cfg, folder)
    record = record_of(cfg)
    assert recall_config(RunFolder(folder, record)).dataset.download is False
    assert recall_config(RunFolder(folder, record), ["dataset.download=true"]).dataset.download
