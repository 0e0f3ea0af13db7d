"""Which runs have a published setting, and the message for the others."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from kdbench.config.compose import CONF, compose_config, prepare
from kdbench.config.identity import resolve_config
from kdbench.engine.setting import find_setting

PAIR = ["dataset=cifar100", "pair=resnet56_resnet20"]


def found(*overrides):
    cfg = compose_config(overrides)
    setting = find_setting(cfg)
    return setting, setting.describe(cfg)


def test_a_cell_and_nothing_else_is_the_published_setting():
    setting, text = found(*PAIR, "method=dkd")
    assert (setting.kind, setting.differs, setting.is_borrowed) == ("published", {}, False)
    assert text == (
        "the published setting of dkd on cifar100, resnet56_resnet20 (Zhao et al., CVPR 2022; "
        "configs of mdistiller)"
    )
    apart = ["dataset=cifar100", "teacher=resnet56", "student=resnet20", "method=dkd"]
    assert found(*apart)[0].kind == "published"
    assert found("pair=imagenet_resnet34_resnet18", "method=logit_std")[0].kind == "published"


def test_a_pair_published_with_the_methods_default():
    setting, text = found(*PAIR)
    assert (setting.kind, setting.differs) == ("published_default", {})
    assert setting.source.startswith("RepDistiller (Tian et al., ICLR 2020) and mdistiller")
    assert text.startswith("the published setting of kd on cifar100, resnet56_resnet20, the method")


def test_our_own_setting_gives_its_reason():
    setting, text = found("dataset=cifar100", "pair=vgg13_vgg8", "method=mlkd_atkd")
    assert (setting.kind, setting.differs) == ("default", {})
    assert "using kdbench's own (learning rates of method=mlkd; those of the" in text
    assert setting.facts()["setting_source"] is None


def test_training_from_scratch_is_published_under_any_teacher():
    assert found("dataset=cifar100", "student=resnet20", "method=scratch")[0].kind == (
        "published_default"
    )
    assert found("dataset=cifar100", "student=resnet14", "method=scratch")[0].kind == "default"


def test_identity_paths_and_speed_are_not_part_of_a_setting():
    neither = ["seed=3", "run.precision=bf16", "speed=none", "run.threads=1", "tracker=csv"]
    neither += ["dataset.eval_batch_size=7", "teacher.weights=FILE", "paths.outputs=elsewhere"]
    assert found(*PAIR, *neither)[0].kind == "published_default"


def test_changes_are_named():
    setting, text = found(*PAIR, "temperature.tau=8", "optim.lr=0.3")
    assert setting.kind == "changed"
    assert setting.differs == {"optim.lr": [0.05, 0.3], "temperature.tau": [4.0, 8]}
    assert text == (
        "not the published setting of kd on cifar100, resnet56_resnet20: optim.lr=0.3 (0.05); "
        "temperature.tau=8.0 (4.0)"
    )


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("run.epochs=2", "run.epochs"),
        ("run.protocol=strict", "run.protocol"),
        ("dataset.batch_size=128", "dataset.batch_size"),
        ("teacher.epochs=5", "teacher.epochs"),
        ("plugin=dot", "plugin.delta"),
        ("objective.ce_weight=1", "objective.ce_weight"),
        ("temperature=cosine", "temperature.start"),
        ("optim.optimizer.momentum=0", "optim.optimizer.momentum"),
    ],
)
def test_keys_that_are_part_of_a_setting(override, key):
    setting, _ = found(*PAIR, override)
    assert setting.kind == "changed"
    assert key in setting.differs


def test_no_published_setting():
    setting, text = found("dataset=cifar100", "pair=resnet56_resnet20", "method=atkd")
    assert (setting.kind, setting.differs) == ("default", {})
    assert text.startswith("no published setting for atkd on cifar100, resnet56_resnet20")
    assert not setting.is_borrowed
    setting, text = found("temperature.tau=3")  # digits
    assert (setting.kind, setting.differs) == ("default", {"temperature.tau": [4.0, 3]})
    assert text.endswith("using the method's default; except temperature.tau=3.0 (4.0)")


def test_cifar_constants_on_imagenet_are_mentioned():
    setting, text = found("pair=imagenet_resnet34_resnet18", "method=atkd")
    assert setting.is_borrowed
    assert "the method's default, with constants for CIFAR-100: set objective.*" in text
    networks = ["teacher=imagenet/resnet34", "student=imagenet/resnet50"]
    assert found("dataset=imagenet", *networks, "method=dkd")[0].is_borrowed
    assert not found("pair=imagenet_resnet50_mobilenetv1", "method=ctkd")[0].is_borrowed


def test_a_custom_dataset_or_method_has_no_setting_to_compare_with():
    plain = resolve_config(compose_config())
    assert find_setting(plain | {"method": "mine"}) == ("default", {}, None, False)


def test_it_is_found_inside_a_running_hydra_application():
    prepare()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        assert find_setting(compose("train", [*PAIR, "method=mse"])).kind == "default"
        assert GlobalHydra.instance().hydra is running


def test_a_chain_has_the_setting_published_for_the_whole_chain():
    cell = ["dataset=cifar100", "pair=resnet110_resnet8", "method=takd"]
    assert find_setting(compose_config(cell)).kind == "published"
    other = find_setting(compose_config([*cell, "teacher.recipe=[method=kd,teacher=resnet56]"]))
    assert (other.kind, list(other.differs)) == ("changed", ["teacher.epochs", "teacher.recipe"])
    direct = ["dataset=cifar100", "pair=resnet56_resnet20", "method=kd"]
    chain = find_setting(compose_config([*direct, "teacher.recipe=[method=kd,teacher=resnet110]"]))
    assert chain.kind == "changed"  # its number is not that of the pair


def test_another_strategy_is_named_without_its_values():
    setting, text = found("dataset=cifar100", "pair=resnet56_resnet20", "temperature=cosine")
    assert "temperature.start" in setting.differs
    assert text.endswith("resnet56_resnet20: temperature=Cosine (Constant)"), text
