"""Run keys know a class by its name: files may move, and no two classes share a name."""

import inspect
import json
import pkgutil
import shutil
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import kdbench
from kdbench.config import code, stable
from kdbench.config.compose import CONF, compose_config
from kdbench.config.identity import resolve_config, run_key
from kdbench.config.recall import open_run, recall_config
from kdbench.config.stable import current_targets, keyed_config, stable_name
from kdbench.config.targets import LOAD_MODEL, OPTIMIZERS, is_allowed, iter_targets
from kdbench.records.collect import RunFolder
from tests.config.test_recall import record_of

CONSTANT = "kdbench.temperature.constant.Constant"
MOVED = "kdbench.temperature.elsewhere.Constant"


@pytest.fixture
def forget():
    """Forgets what was read of the package's source, now and afterwards."""

    def clear():
        for cached in (code._tree, code._locate, stable._homes):
            cached.cache_clear()

    yield clear
    clear()


@pytest.fixture
def package(tmp_path, forget):
    """A folder in which modules of kdbench are looked for too."""
    searched = [import_module(name).__path__ for name in ("kdbench", "kdbench.temperature")]
    folders = [tmp_path / "package", tmp_path / "package" / "temperature"]
    folders[1].mkdir(parents=True)
    for path, folder in zip(searched, folders, strict=True):
        path.append(str(folder))
    forget()
    yield folders[0]
    for path, folder in zip(searched, folders, strict=True):
        path.remove(str(folder))


@pytest.fixture
def key(tmp_path):
    def of(*overrides):
        return run_key(compose_config([f"paths.outputs={tmp_path}", "debug=smoke", *overrides]))

    return of


def test_a_class_that_moves_keeps_the_keys_of_its_runs(key, package):
    shutil.copy(Path(inspect.getfile(import_module("kdbench.temperature.constant"))),
                package / "temperature" / "elsewhere.py")  # fmt: skip
    before = key(f"temperature._target_={CONSTANT}")
    assert key(f"temperature._target_={MOVED}") == before == key()
    assert key("temperature=cosine") != before


def test_a_class_that_is_renamed_states_its_old_name(key, package):
    file = package / "temperature" / "elsewhere.py"
    source = Path(inspect.getfile(import_module("kdbench.temperature.constant"))).read_text()
    renamed = source.replace("class Constant(Schedule):", "class Fixed(Schedule):")
    assert renamed != source
    file.write_text(renamed)
    target = "kdbench.temperature.elsewhere.Fixed"
    assert stable_name(target) == "Fixed"
    code._tree.cache_clear()
    file.write_text(renamed.replace("(Schedule):", '(Schedule):\n    stable_name = "Constant"'))
    assert stable_name(target) == "Constant"


def targets_of_conf():
    for path in sorted(CONF.rglob("*.yaml")):
        yield from (node["_target_"] for _, node in iter_targets(yaml.safe_load(path.read_text())))


def constructible():
    """The dotted paths of all classes of the package that a config may name."""
    for module in pkgutil.walk_packages(kdbench.__path__, "kdbench."):
        if module.name.startswith(tuple(f"{place}" for place in stable.PLACES)):
            for name, _ in inspect.getmembers(import_module(module.name), inspect.isclass):
                yield f"{module.name}.{name}"


def test_no_two_classes_have_one_name():
    allowed = {target for target in constructible() if is_allowed(target)}
    assert len(allowed) > 60
    every = allowed | set(targets_of_conf()) | {LOAD_MODEL, *OPTIMIZERS}
    names = Counter(stable_name(target) for target in every)
    assert [name for name, count in names.items() if count > 1] == []


def test_what_is_not_kdbenchs_keeps_its_dotted_path():
    assert stable_name("torch.optim.SGD") == "torch.optim.SGD"
    assert stable_name("kdbenchmark.parts.Constant") == "kdbenchmark.parts.Constant"
    assert stable_name(LOAD_MODEL) == "load_model"


def test_the_label_of_a_strategy_is_no_part_of_a_key(key):
    assert key("temperature.name=tepid") == key()
    term = {"strategy": {"_target_": CONSTANT, "name": "constant", "tau": 4.0}, "name": "kept"}
    assert keyed_config({"terms": [term]}) == {
        "terms": [{"strategy": {"_target_": "Constant", "tau": 4.0}, "name": "kept"}]
    }


def test_a_record_from_before_a_move_is_read_as_of_today(tmp_path):
    cfg = compose_config(["debug=smoke", "temperature=cosine"])
    old = "kdbench.temperature.schedules.Cosine"  # where no file is
    record = record_of(cfg)
    config = json.loads(json.dumps(record.config).replace("kdbench.temperature.cosine.Cosine", old))
    teacher = json.loads(json.dumps(record.teacher_config).replace("engine.schedule", "engine.lr"))
    assert (config, teacher) != (record.config, record.teacher_config)
    replace(record, config=config, teacher_config=teacher).write(tmp_path)
    run = open_run(tmp_path)
    assert run.record.config == record.config
    found = recall_config(run, [])
    assert run_key(found) == run_key(recall_config(RunFolder(tmp_path, record), []))
    assert resolve_config(found)["teacher"] == record.teacher_config


def test_a_unknown_name_stays_as_it_is():
    node = {"a": [{"_target_": "kdbench.gone.Nothing"}, {"_target_": "other.Constant"}]}
    assert current_targets(node) == node


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["debug=smoke"], "7dca7b3740e58a02"),
        (["debug=smoke", "method=scratch", "seed=7"], "34169a48737539c5"),
        (["debug=smoke", "method=mlkd_logit_std"], "fa43b94c43d2400f"),
        (["debug=smoke", "method=rlkd", "teacher.seed=3"], "ee92ed66f96da244"),
        (["debug=smoke", "plugin=dot", "optim=adamw", "student=timm"], "08b1d6dedbe11df2"),
        (["dataset=mnist5k", "temperature=cosine", "run.protocol=strict"], "bca5ff167f8d92ec"),
    ],
)
def test_keys_are_what_they_were(tmp_path, overrides, expected):
    """A key that changes here orphans every run of this kind that people have."""
    assert run_key(compose_config([*overrides, f"paths.outputs={tmp_path}"]))[:16] == expected
