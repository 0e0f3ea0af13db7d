import pytest

from kdbench.config.check import check
from kdbench.config.overrides import check_overrides, compose_checked
from kdbench.errors import ConfigError


def problems(*overrides):
    with pytest.raises(ConfigError) as caught:
        check_overrides(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tempreature=3", ["tempreature", "did you mean temperature"]),
        ("run.epochz=3", ["run.epochz", "run.epochs"]),
        ("lr=0.1", ["lr is not a key", "optim.lr"]),
        ("epochs=3", ["epochs is not a key", "run.epochs"]),
        ("temperature.tua=3", ["temperature.tua", "temperature.tau"]),
        ("+temperature.tua=3", ["temperature.tua is not an argument", "tau"]),
        ("+sede=3", ["sede is not a key", "seed"]),
        ("+run.epoch=3", ["run.epoch is not a key", "run.epochs"]),
        ("method=foo", ["method=foo does not exist", "kd, scratch"]),
        ("student=resnet8x5", ["student=resnet8x5", "resnet8x4"]),
        (
            "student.arch=wrn_16_1",
            ["settings of another network; write student=wrn_16_1"],
        ),
        (
            "teacher.model.arch=timm:resnet18",
            ["write teacher=timm teacher.model.arch=timm:resnet18"],
        ),
        ("dataset=cifar1000", ["dataset=cifar1000", "cifar100", "mnist5k"]),
        ("temperature.tau=abc", ["temperature.tau='abc'", "float"]),
        ("temperature.tau=0", ["temperature", "tau must be a finite number > 0, found 0"]),
        ("temperature.tau=-4", ["tau must be a finite number > 0, found -4"]),
        ("temperature.tau=nan", ["tau must be a finite number > 0, found nan"]),
        ("temperature.tau=inf", ["tau must be a finite number > 0, found inf"]),
        ("run.epochs=1.5", ["run.epochs=1.5", "Integer"]),
        ("run.epochs=0", ["run.epochs=0", ">= 1"]),
        ("run.epochs=-3", ["run.epochs=-3", ">= 1"]),
        ("optim.lr=0", ["optim.lr=0", "> 0"]),
        ("optim.lr=-1", ["optim.lr=-1", "> 0"]),
        ("optim.optimizer.momentum=-1", ["optim.optimizer", "momentum"]),
        ("dataset.batch_size=0", ["dataset.batch_size=0", ">= 1"]),
        ("objective.terms.kd.weight=-1", ["objective", "weight must be a finite number >= 0"]),
        ("run.protocol=papr", ["run.protocol='papr'", "paper, strict"]),
        ("run.precision=fp8", ["run.precision='fp8'", "fp32, tf32, bf16"]),
        ("run.device=cuda:7", ["run.device='cuda:7'", "CUDA device(s)"]),
        ("run.device=gpu", ["run.device='gpu'", "auto, cpu, cuda"]),
        ("run.threads=0", ["run.threads=0", "null for all cores"]),
        ("run.keep_checkpoints=1", ["run.keep_checkpoints=1", ">= 2"]),
        ("student.arch=resnet9", ["student", "resnet9", "resnet8"]),
        ("student._target_=os.system", ["student", "'os.system' is not allowed"]),
        ("plugin._target_=kdbench.plugin.bsae.Plugin", ["plugin", "cannot be imported"]),
        ("seed=???", ["seed has no value"]),
        ("temperature.tau=${oc.env:NO_SUCH_VARIABLE}", ["temperature.tau", "NO_SUCH_VARIABLE"]),
        ("seed=1=2", ["seed=1=2", "quote the value"]),
        ("temperature.tau=1e30", ["tau must lie between 0.001 and 1000, found 1e+30"]),
        ("temperature.tau=1e-30", ["tau must lie between 0.001 and 1000, found 1e-30"]),
        ("optim.optimizer.momentum=1.5", ["optim.optimizer.momentum=1.5", "[0, 1)"]),
        ("optim.optimizer.weight_decay=7", ["weight_decay=7", "[0, 1]"]),
        ("teacher.optim.optimizer.momentum=nan", ["teacher.optim.optimizer.momentum=nan"]),
        ("seed=99999999999999999999999", ["seed=99999999999999999999999", "< 2^63"]),
        ("run.threads=100000", ["run.threads=100000", "null for all cores"]),
        ("teacher.expected_top1=101", ["teacher.expected_top1=101", "0 to 100"]),
        ("paths.outputs=", ["paths.outputs=''", "is a shell variable unset"]),
        ("paths.cache=", ["paths.cache=''", "is a shell variable unset"]),
        ("teacher.weights=", ["teacher.weights=''", "is a shell variable unset"]),
        ("paths.outputs=${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE is not set"]),
        ("optim.lr=???", ["optim.lr has no value"]),
        ("~tracker", ["tracker has no value", "csv, tensorboard, wandb"]),
        ("tracker=[wandb,tensorboard]", ["choose one; did you mean tracker=wandb_tensorboard?"]),
        ("method=[kd,ctkd]", ["method=[kd,ctkd] would merge several options"]),
        ("~run.epochs", ["~run.epochs: this key cannot be removed; set it instead"]),
        ("objective=annealing", ["objective=annealing does not go with temperature=constant"]),
        ("temperature=6", ["did you mean temperature.tau=6?"]),
        ("optim=0.1", ["did you mean optim.lr=0.1?"]),
        ("hydra.launcher.max_lerners=2", ["max_lerners is not a key", "max_learners"]),
        ("hydra.run.dri=x", ["hydra.run.dri is not a key", "hydra.run.dir"]),
    ],
)
def test_one_mistake(override, words):
    found = problems(override)
    for word in words:
        assert word in found


def test_all_mistakes_at_once():
    found = problems(
        "tempreature=3",
        "method=foo",
        "run.epochs=abc",
        "temperature.tau=x",
        "optim.lr=0",
        "seed=-1",
    )
    for word in ("tempreature", "method=foo", "run.epochs=abc", "tau='x'", "optim.lr=0", "seed=-1"):
        assert word in found
    assert found.startswith("7 problems")  # run.data_seed follows the seed


def test_two_impossible_values_in_different_parts():
    found = problems("temperature.tau=0", "objective.ce_weight=-1", "student.arch=resnet9")
    assert "tau must be" in found
    assert "ce_weight must be" in found
    assert "resnet9" in found


def test_every_value_of_a_sweep_is_looked_at():
    found = problems("temperature.tau=1,2,-3", "method=kd,nope", "seed=range(0,3)")
    assert "found -3" in found
    assert "method=nope" in found


def test_a_mistake_that_all_points_of_a_sweep_share_is_reported_once(monkeypatch):
    from kdbench.config import overrides

    composed = []
    compose = overrides.compose
    monkeypatch.setattr(
        overrides, "compose", lambda *a, **k: composed.append(a) or compose(*a, **k)
    )
    found = problems("temperature.tau=1,2,3,4,5,6,7,8", "hydra.job.num=x", "hydra.run.dri=x")
    assert found.count("hydra.job.num=x") == found.count("hydra.run.dri") == 1
    assert found.startswith("2 problems")
    assert len(composed) < 25  # and not one attempt for each point and override


def test_what_a_swept_choice_brings_is_no_mistake():
    check_overrides(["temperature=cosine,linear", "temperature.start=6", "seed=1,2"], values=False)


def test_a_run_and_its_objective_agree_in_the_number_of_classes():
    cfg = compose_checked(["method=ctkd", "temperature.num_classes=7"])  # for data of one's own
    with pytest.raises(ConfigError, match=r"temperature.num_classes=7 must be dataset.num_classes"):
        check(cfg)


def test_zero_is_a_seed():
    assert compose_checked(["seed=0"]).seed == 0


def test_keys_of_a_chosen_group_are_known():
    cfg = compose_checked(["temperature=cosine", "temperature.start=6"])
    assert cfg.temperature.start == 6


def test_a_list_where_a_number_belongs():
    assert "float" in problems("temperature.tau=[1,2]")


def test_nothing_to_optimise():
    assert "nothing to optimize" in problems("objective.ce_weight=0", "objective.terms.kd.weight=0")


def test_an_unknown_timm_name_has_near_ones():
    assert "resnet18" in problems("student=timm", "student.arch=timm:resnt18")
