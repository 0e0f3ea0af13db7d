"""Published settings: what a file says, and how Hydra gets it."""

import cloudpickle
import pytest
import yaml
from hydra import compose as compose_in_application
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from kdbench.config.compose import (
    CONF,
    ConfigSource,
    compose,
    compose_config,
    hydra_context,
    prepare,
)
from kdbench.config.tuned import GROUP, PairSetting, find_pair, read_settings
from kdbench.errors import ConfigError

CELL = ["dataset=cifar100", "pair=resnet56_resnet20"]
FILES = sorted((CONF / "published").glob("*.yaml"))
OWN = """
cifar100:
  - source: a paper
    values: {run.epochs: 3}
    keys: [temperature.tau, optim.optimizer.weight_decay]
    pairs:
      resnet56_resnet20: [2.5, 1e-4]
    default: [vgg13_vgg8]
  - ours: no paper has it
    values: {temperature.tau: 9.0}
    pairs: [resnet110_resnet20]
"""


@pytest.fixture
def folder(tmp_path):
    """A config folder with a method and its settings."""
    (tmp_path / "method").mkdir()
    (tmp_path / "published").mkdir()
    method = "# @package _global_\ndefaults:\n  - override /objective: kd\nmethod: mine\n"
    (tmp_path / "method" / "mine.yaml").write_text(method)
    (tmp_path / "published" / "mine.yaml").write_text(OWN)
    return tmp_path


def test_every_method_has_a_file_that_is_read_on_one_screen():
    assert [path.stem for path in FILES] == sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
    assert max(len(path.read_text().splitlines()) for path in FILES) <= 60


def test_every_dataset_and_pair_is_one_that_can_be_chosen():
    for path in FILES:
        for dataset, pairs in read_settings(CONF, path.stem).items():
            assert (CONF / "dataset" / f"{dataset}.yaml").is_file(), path
            assert [p for p in pairs if not (CONF / "pair" / f"{p}.yaml").is_file()] == [], path


def test_a_file_tells_pairs_of_their_own_from_defaults_and_from_those_never_run(folder):
    found = read_settings(folder, "mine")["cifar100"]
    values = {"run.epochs": 3, "temperature.tau": 2.5, "optim.optimizer.weight_decay": 1e-4}
    assert found["resnet56_resnet20"] == PairSetting(values, "a paper", True)
    assert found["vgg13_vgg8"] == PairSetting({}, "a paper", True)
    assert found["resnet110_resnet20"] == PairSetting(
        {"temperature.tau": 9.0}, "no paper has it", False
    )
    assert "resnet50_vgg8" not in found
    assert read_settings(folder, "another") == {}


def test_another_dataset_gets_the_values_of_the_pair_and_its_own_where_it_has_some(tmp_path):
    (tmp_path / "published").mkdir()
    text = "{}:\n  - source: s\n    values: {{temperature.tau: {}}}\n    pairs: [vgg13_vgg8]\n"
    both = text.format("cifar100", 2) + text.format("cifar10", 3)
    (tmp_path / "published" / "mine.yaml").write_text(both)
    taus = [
        find_pair(tmp_path, "mine", dataset, "vgg13_vgg8").values["temperature.tau"]
        for dataset in ("cifar10", "cifar100", "mnist5k")
    ]
    assert taus == [3, 2, 2]


def test_hydra_is_given_the_pair_s_values():
    assert compose_config([*CELL, "method=ttm"]).temperature.exponent == 0.3
    apart = ["dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=ttm"]
    assert compose_config(apart).objective.terms.kd.weight == 7
    assert compose_config([*CELL, "method=ttm", "~tuned"]).temperature.exponent == 0.1
    other = "tuned=ttm__cifar100__resnet110_resnet20"
    assert compose_config([*CELL, "method=ttm", other]).temperature.exponent == 0.2
    assert compose_config([*CELL, "method=ttm", "temperature.exponent=0.7"]).temperature == {
        "_target_": "kdbench.temperature.ttm.TTM",
        "name": "ttm",
        "exponent": 0.7,
    }


@pytest.mark.parametrize(
    ("overrides", "section", "keys"),
    [
        (["method=ttm", "temperature=cosine"], "temperature", {"start", "end", "until"}),
        (["method=ttm", "~temperature", "++temperature._target_=a.B"], "temperature", set()),
        (["method=dkd", "objective=kd"], "objective.terms", {"kd"}),
        (["method=kd_dot", "plugin=none", "pair=imagenet_resnet34_resnet18"], "plugin", set()),
    ],
)
def test_values_for_a_part_of_the_method_are_not_given_to_another_part(overrides, section, keys):
    found = OmegaConf.select(compose_config([*CELL, *overrides]), section)
    assert set(found) - {"_target_", "name"} == keys


def test_the_group_lists_its_options():
    with hydra_context() as loader:
        options = loader.get_group_options(GROUP)
    assert "ttm__cifar100__resnet56_resnet20" in options
    assert "kd__cifar100__resnet56_resnet20" not in options  # the default of the method


def test_an_application_of_hydra_composes_the_same():
    prepare()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_in_application("train", [*CELL, "method=ttm"])
    assert cfg.temperature.exponent == 0.3


def test_a_folder_of_ones_own_has_settings_of_its_own(folder):
    for source in (ConfigSource(folder=folder), ConfigSource(searchpath=(str(folder),))):
        with hydra_context(source) as loader:
            moved = cloudpickle.loads(cloudpickle.dumps(loader))  # as launchers do
            for each in (loader, moved):
                cfg = compose(each, [*CELL, "method=mine"])
                assert (cfg.temperature.tau, cfg.run.epochs) == (2.5, 3)


def test_the_command_line_finds_them_too(folder, kdbench):
    question = ["--config-dir", str(folder), "--cfg", "job", *CELL, "method=mine"]
    code, output = kdbench(*question)
    assert (code, yaml.safe_load(output)["temperature"]["tau"]) == (0, 2.5)
    code, output = kdbench(f"hydra.searchpath=[{folder}]", "--cfg", "job", *CELL, "method=mine")
    assert (code, yaml.safe_load(output)["temperature"]["tau"]) == (0, 2.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1", "must be a mapping of datasets"),
        ("cifar100: {}", "cifar100 must be a list, found {}"),
        ("cifar100: [1]", "block 1: it must be a mapping, found 1"),
        ("cifar100:\n  - pairs: [a_b]", "with either source or ours; found pairs"),
        ("cifar100:\n  - {source: s, ours: o}", "either source or ours"),
        ("cifar100:\n  - {source: s, pair: [a_b]}", "allowed are default, keys, ours, pairs"),
        ("cifar100:\n  - {source: s, keys: [x.y, z], pairs: {a_b: [1]}}", "a_b has 1 values"),
        ("cifar100:\n  - {source: s, keys: [x.y], pairs: [a_b]}", "pairs must be a mapping"),
        ("cifar100:\n  - {source: s, values: 3}", "values must be a mapping, found 3"),
        ("cifar100: [\n", "line 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_is_wrong(tmp_path, text, problem):
    (tmp_path / "published").mkdir()
    path = tmp_path / "published" / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path, "mine")
    assert str(path) in str(caught.value)
    assert problem in str(caught.value)
