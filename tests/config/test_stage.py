"""A teacher is the student of another run, which its recipe describes."""

import json
from pathlib import Path

import pytest
import yaml

from kdbench.config.check import find_problems
from kdbench.config.compose import CONF, ConfigSource, compose, compose_config, hydra_context
from kdbench.config.identity import (
    describe,
    resolve_config,
    run_key,
    stage_folders,
    teacher_config,
    teacher_job,
)
from kdbench.config.stage import FROM_SCRATCH, first_of_chain, name_teacher, source_of
from kdbench.errors import ConfigError

CHAIN = "teacher.recipe=[method=kd,teacher=resnet56]"
LONG = "teacher.recipe=[method=kd,teacher=resnet14,teacher.recipe=[method=dkd,teacher=resnet56]]"


def config(*overrides):
    return compose_config(["debug=smoke", "teacher=resnet20", *overrides])


def training(*overrides):
    return teacher_config(config(*overrides))


def test_by_default_a_teacher_is_trained_from_scratch():
    assert tuple(yaml.safe_load((CONF / "train.yaml").read_text())["teacher"]["recipe"]) == (
        FROM_SCRATCH
    )
    cfg = training()
    assert (cfg.method, cfg.pair, cfg.student.arch, cfg.role) == (
        *("scratch", "resnet20", "resnet20", "teacher"),
    )
    assert cfg.objective == compose_config(["method=scratch"]).objective


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("teacher.seed=5", "seed", 5),
        ("teacher.seed=5", "run.data_seed", 5),
        ("teacher.epochs=7", "run.epochs", 7),
        ("dataset.epochs=9", "run.epochs", 9),
        ("run.epochs=9", "run.epochs", 2),
        ("run.protocol=strict", "run.protocol", "strict"),
        ("dataset.batch_size=16", "dataset.batch_size", 16),
        ("teacher.optim.lr=0.3", "optim.optimizer.lr", 0.3),
        ("speed=none", "speed.channels_last", False),
        ("seed=3", "seed", 0),
        # what a recipe says goes before what the section `teacher` says
        (f"{CHAIN[:-1]},seed=8]", "seed", 8),
        (f"{CHAIN[:-1]},seed=8]", "run.data_seed", 8),
        (f"{CHAIN[:-1]},run.epochs=3]", "run.epochs", 3),
        (f"{CHAIN[:-1]},dataset.batch_size=32]", "dataset.batch_size", 32),
        (f"{CHAIN[:-1]},optim.lr=0.2]", "optim.optimizer.lr", 0.2),
        (f"{CHAIN[:-1]},temperature.tau=7]", "temperature.tau", 7.0),
        (f"{CHAIN[:-1]},run.precision=bf16]", "run.precision", "bf16"),
        # of a method that is trained for longer
        ("teacher.recipe=[method=mlkd,teacher=resnet56]", "run.epochs", 4),
        ("teacher.recipe=[method=mlkd,teacher=resnet56,dataset.epochs=10]", "run.epochs", 20),
        ("teacher.recipe=[method=annealing_kd]", "optim.optimizer.momentum", 0.9),
    ],
)
def test_a_stage_is_what_run_teacher_and_recipe_say(override, key, expected):
    from omegaconf import OmegaConf

    assert OmegaConf.select(training(override), key) == expected


def test_epochs_of_the_teacher_go_before_those_of_its_method():
    assert training("teacher.recipe=[method=mlkd]", "teacher.epochs=1").run.epochs == 1


def test_a_recipe_that_says_the_usual_is_the_usual_run():
    key = run_key(training())
    assert run_key(training("teacher.recipe=[method=scratch,seed=0]")) == key
    assert run_key(training("teacher.recipe=[method=scratch,optim.lr=0.05]")) == key
    assert run_key(training("teacher.recipe=[method=scratch,optim.lr=0.06]")) != key


def test_a_chain_has_a_run_for_each_stage():
    cfg = config(LONG)
    names = [folder.name.rpartition("-")[0] for folder in stage_folders(cfg)]
    assert names == ["resnet56-dkd-resnet14_resnet20", "resnet56_resnet14", "resnet56"]
    assert cfg.pair == "resnet56-dkd-resnet14-kd-resnet20_resnet8"
    second, folder, key = teacher_job(cfg)
    assert key[:10] in folder.name
    first = teacher_config(second)
    assert (second.method, second.teacher.model.arch) == ("kd", "resnet14")
    assert (first.method, first.teacher.model.arch) == ("dkd", "resnet56")
    assert teacher_config(first).method == "scratch"
    # the same stage, asked for by another run
    inner = "teacher.recipe=[method=dkd,teacher=resnet56]"
    direct = compose_config(["debug=smoke", "teacher=resnet14", "seed=5", inner])
    assert stage_folders(direct) == stage_folders(cfg)[1:]


def test_every_stage_is_part_of_the_key():
    keys = {
        run_key(config(override))
        for override in (
            *("seed=0", CHAIN, LONG, LONG.replace("dkd", "kd")),
            LONG.replace("dkd", "dkd,teacher.seed=1"),
        )
    }
    assert len(keys) == 5
    assert run_key(config(CHAIN)) == run_key(config(CHAIN.replace("method=kd,", "")))


def test_what_is_resolved_holds_the_whole_chain():
    plain = json.loads(json.dumps(resolve_config(config(LONG))))
    assert name_teacher(plain["teacher"]) == "resnet56-dkd-resnet14-kd-resnet20"
    assert plain["teacher"]["epochs"] == 2
    assert plain["teacher"]["stage"]["teacher"]["stage"]["teacher"]["stage"]["method"] == "scratch"


def test_a_chain_is_named_where_people_look():
    run = describe(config(CHAIN), Path("run"), "0" * 64)
    assert run.pair == "resnet56-kd-resnet20_resnet8"
    plain = resolve_config(config(CHAIN))
    labels = run.labels(plain)
    assert labels["teacher"] == "resnet56-kd-resnet20"
    assert labels["teacher_recipe"] == "method=kd teacher=resnet56"
    photographs = ["dataset=imagenet", "pair=imagenet_resnet34_resnet18"]
    chain = "teacher.recipe=[method=kd,teacher=imagenet/resnet50]"
    assert compose_config([*photographs, chain]).pair == "imagenet_resnet50-kd-resnet34_resnet18"
    file = "teacher.weights=some.pth"  # then nothing is trained, and the recipe says nothing
    assert compose_config([CHAIN, file]).pair == "resnet20_resnet8"


def test_takd_puts_an_assistant_between_two_networks():
    cfg = compose_config(["dataset=cifar100", "pair=resnet110_resnet8", "method=takd"])
    assert (cfg.teacher.model.arch, cfg.student.arch) == ("resnet20", "resnet8")
    assert cfg.pair == "resnet110-kd-resnet20_resnet8"
    plain = resolve_config(cfg)
    assert first_of_chain(plain["teacher"]) == "resnet110"
    second = teacher_config(cfg)
    for stage in (cfg, second, teacher_config(second)):
        assert (stage.optim.lr, stage.optim.optimizer.nesterov) == (0.1, True)
    own = compose_config(["method=takd", "teacher=resnet14", "student=resnet8"])
    assert own.pair == "resnet110-kd-resnet14_resnet8"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("[method=kdd]", "method/kdd"),
        ("[method=kd,temprature.tau=3]", "temprature"),
        ("[method=kd,student=resnet14]", "student=resnet14 is not allowed in a recipe"),
        ("[dataset=digits]", "dataset=digits is not allowed in a recipe"),
        ("[method=kd,'seed=1,2']", "several values"),
        ("[method]", "method"),
        ("[method=kd,temperature.tau=-1]", "tau"),
        ("[method=kd,run.epochs=0]", "run.epochs=0"),
    ],
)
def test_a_recipe_that_makes_no_run_is_refused(recipe, words):
    from kdbench.config.overrides import check_overrides

    with pytest.raises(ConfigError, match=r"teacher\.recipe") as refused:
        check_overrides(["debug=smoke", f"teacher.recipe={recipe}"])
    assert words in str(refused.value)
    assert "ConfigError" not in str(refused.value)


@pytest.fixture
def folder(tmp_path):
    """A folder for --config-dir with methods of one's own."""
    (tmp_path / "method").mkdir()
    head = "# @package _global_\ndefaults: [override /objective: kd]\n"
    endless = f"{head}method: endless\nteacher: {{recipe: [method=endless]}}\n"
    (tmp_path / "method" / "endless.yaml").write_text(endless)
    (tmp_path / "method" / "mine.yaml").write_text(f"{head}method: mine\ntemperature: {{tau: 9}}\n")
    return tmp_path


def test_a_recipe_that_leads_back_to_itself_is_refused(folder):
    with hydra_context(ConfigSource(folder=folder)) as loader:
        cfg = compose(loader, ["debug=smoke", "method=endless"])
        assert "probably circular" in find_problems(cfg)[0]


def test_a_recipe_finds_methods_where_its_run_did(folder):
    source = ConfigSource(folder=folder)
    overrides = ["debug=smoke", "teacher.recipe=[method=mine,teacher=resnet14]"]
    with hydra_context(source) as loader:
        cfg = compose(loader, overrides, with_hydra=True)
        bare = compose(loader, overrides)
        assert find_problems(bare) == []
    assert source_of(cfg) == source
    assert teacher_config(cfg).temperature.tau == 9  # outside of the context
    assert cfg.pair == "resnet14-mine-resnet8_resnet8"
