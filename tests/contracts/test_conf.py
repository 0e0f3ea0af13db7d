"""Every YAML in conf/ composes, passes the checks and becomes an object."""

import ast

import pytest
import torch
import yaml
from hydra.types import RunMode

from kdbench.config.build import build, build_objective, build_optimizer
from kdbench.config.check import find_problems
from kdbench.config.choices import HIDDEN
from kdbench.config.compose import CONF, compose_config, hydra_context
from kdbench.config.identity import teacher_config
from kdbench.model.cifar import __all__ as networks
from tests.helpers.paths import ROOT

EVERY = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in HIDDEN
)


@pytest.mark.parametrize("choice", EVERY)
def test_composes_and_passes_the_checks(choice, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    company = []
    if choice.endswith("=torchvision"):  # ImageNet networks take colour images
        company = ["dataset=imagenet"]
    elif "annealing" in choice and not choice.startswith("method"):  # its parts belong together
        company = ["method=annealing_kd"]
    assert find_problems(compose_config([*company, choice])) == []


@pytest.mark.parametrize("pair", sorted(p.stem for p in (CONF / "pair").glob("*.yaml")))
def test_a_pair_is_its_name_and_the_command_line_wins(pair):
    cfg = compose_config([f"pair={pair}"])
    assert cfg.pair == pair
    usual = 0.2 if cfg.dataset.name == "imagenet" else 0.05
    slow = cfg.student.arch in ("mobilenetv2", "shufflenetv1", "shufflenetv2")
    assert cfg.optim.lr == (0.01 if slow else usual)
    assert cfg.teacher.optim.lr == usual
    mine = compose_config([f"pair={pair}", "student=wrn_16_1", "optim.lr=0.3"])
    assert (mine.student.arch, mine.optim.lr) == ("wrn_16_1", 0.3)
    assert mine.pair == f"{mine.teacher.model.arch}_wrn_16_1"


def setting(*choices):
    """Pair, learning rate and weights of the terms."""
    cfg = compose_config(choices)
    return cfg.pair, cfg.optim.lr, {name: term.weight for name, term in cfg.objective.terms.items()}


def test_a_pair_has_one_setting_however_it_is_chosen():
    apart = setting("dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=dkd")
    assert apart == ("resnet56_resnet20", 0.05, {"tckd": 1, "nckd": 2})
    assert apart == setting("dataset=cifar100", "pair=resnet56_resnet20", "method=dkd")
    networks = ["teacher=resnet32x4", "student=shufflenetv2"]
    assert setting(*networks) == setting("pair=resnet32x4_shufflenetv2")
    assert setting(*networks)[1] == 0.01
    networks = ["dataset=imagenet", "teacher=imagenet/resnet34", "student=imagenet/resnet18"]
    photographs = setting(*networks, "method=dkd")
    assert photographs == ("imagenet_resnet34_resnet18", 0.2, {"tckd": 1, "nckd": 0.5})
    assert photographs == setting("pair=imagenet_resnet34_resnet18", "method=dkd")


def test_a_pair_with_another_student_has_nothing_of_the_pair_but_its_teacher():
    other = setting("pair=resnet56_resnet20", "student=wrn_16_1", "method=dkd")
    assert other == ("resnet56_wrn_16_1", 0.05, {"tckd": 1, "nckd": 8})
    assert setting("pair=resnet32x4_shufflenetv2", "student=wrn_16_1")[1] == 0.05
    other = setting("pair=imagenet_resnet34_resnet18", "student=imagenet/resnet50", "method=dkd")
    assert other == ("imagenet_resnet34_resnet50", 0.2, {"tckd": 1, "nckd": 8})


def test_the_jobs_of_a_sweep_are_chosen_by_their_networks_too():
    with hydra_context() as loader:
        sweep = loader.load_configuration("train", [], RunMode.MULTIRUN, from_shell=False)
        job = ["dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=dkd"]
        cfg = loader.load_sweep_config(sweep, job)
    assert (cfg.pair, cfg.objective.terms.nckd.weight) == ("resnet56_resnet20", 2)


def test_a_networks_learning_rate_is_one_of_sgd():
    assert setting("student=shufflenetv2", "method=mlkd")[1] == 0.01
    assert setting("student=shufflenetv2", "optim=adamw")[1] == 5e-4
    assert setting("student=shufflenetv2", "optim.lr=0.3")[1] == 0.3


def test_there_is_a_student_and_a_teacher_for_every_network():
    for role in ("student", "teacher"):
        assert {path.stem for path in (CONF / role).glob("*.yaml")} == {
            *networks,
            "timm",
            "torchvision",
        }
    for arch in networks:
        assert yaml.safe_load((CONF / "student" / f"{arch}.yaml").read_text())["arch"] == arch
        teacher = yaml.safe_load((CONF / "teacher" / f"{arch}.yaml").read_text())
        assert {"/student@model": arch} in teacher["defaults"]


@pytest.mark.parametrize("method", sorted(p.stem for p in (CONF / "method").glob("*.yaml")))
def test_a_method_is_its_name(method):
    cfg = compose_config([f"method={method}"])
    assert cfg.method == method
    assert build_objective(cfg).name == cfg.objective.name


@pytest.mark.parametrize("dataset", sorted(p.stem for p in (CONF / "dataset").glob("*.yaml")))
def test_a_dataset_is_its_name(dataset):
    cfg = compose_config([f"dataset={dataset}"])
    assert cfg.dataset.name == dataset
    assert cfg.run.epochs == cfg.dataset.epochs
    assert cfg.student.num_classes == cfg.dataset.num_classes
    build(cfg.dataset)


@pytest.mark.parametrize("optim", sorted(p.stem for p in (CONF / "optim").glob("*.yaml")))
def test_an_optimizer_takes_its_rate_from_one_place(optim):
    cfg = compose_config([f"optim={optim}", "optim.lr=0.123"])
    optimizer = build_optimizer(cfg.optim, [{"params": [torch.zeros(1, requires_grad=True)]}])
    assert optimizer.param_groups[0]["lr"] == 0.123


def test_the_published_cifar_settings():
    cfg = compose_config(["dataset=cifar100", "method=kd"])
    assert (cfg.objective.ce_weight, cfg.objective.terms.kd.weight) == (0.1, 0.9)
    assert (cfg.temperature.tau, cfg.run.epochs, cfg.dataset.batch_size) == (4.0, 240, 64)
    sgd = cfg.optim.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay) == (0.05, 0.9, 5e-4)
    assert [240 * m for m in cfg.optim.schedule.milestones] == [150, 180, 210]


def test_the_teachers_training_is_an_ordinary_run():
    training = teacher_config(compose_config(["pair=vgg13_mobilenetv2", "seed=7", "run.epochs=3"]))
    assert find_problems(training) == []
    assert (training.student.arch, training.method, training.pair) == ("vgg13", "scratch", "vgg13")
    assert (training.role, training.teacher.stage) == ("teacher", None)
    assert (training.seed, training.run.data_seed, training.optim.lr) == (0, 0, 0.05)
    assert training.run.epochs == 6  # of the dataset's recipe, not of the student's run


def test_the_composed_config_is_closed():
    cfg = compose_config()
    with pytest.raises(Exception, match="not in"):
        cfg.tempreature = 3


def test_a_dataset_is_named_in_its_own_files_alone():
    """Adding one edits nothing: no module outside data/ knows any of them by name."""
    names = {path.stem for path in (CONF / "dataset").glob("*.yaml")}
    names -= {"imagenet", "folder", "digits"}  # words that mean other things, too
    outside = [p for p in (ROOT / "kdbench").rglob("*.py") if p.parent.name != "data"]
    outside.remove(ROOT / "kdbench/planning/settings.py")  # shows a method that has none on CIFAR
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in outside
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found == set()
