"""Multiply-adds and hours of runs, counted by hand."""

import pytest
from PIL import Image

from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config
from kdbench.errors import ConfigError
from kdbench.planning.cost import find_stages, price
from kdbench.planning.speed import Speed

IMAGES, TEST = 50_000, 10_000
STUDENT, TEACHER = 5, 7  # multiply-adds of a forward pass


def speed_of(network):
    """One multiply-add takes an hour / 1,000 in the student, an hour / 2,000 in the teacher."""
    per_hour, macs = {"resnet20": (1_000, STUDENT), "resnet56": (2_000, TEACHER)}[network["arch"]]
    return Speed(macs, train=per_hour / 3600, forward=per_hour / 3600)


def config(*overrides):
    own = ["dataset=cifar100", "pair=resnet56_resnet20", "run.epochs=3", *overrides]
    return resolve_config(compose_config(own))


def test_a_student_alone():
    (cost,) = price([config("method=scratch")], speed_of)
    assert cost.macs == 3 * STUDENT * (3 * IMAGES + TEST)
    assert cost.alone == cost.together == pytest.approx(cost.macs / 1_000)


def test_a_teacher_answers_every_image_of_every_epoch():
    (cost,) = price([config("method=kd")], speed_of)
    answers = 3 * TEACHER * IMAGES
    assert cost.macs == 3 * STUDENT * (3 * IMAGES + TEST) + answers
    assert cost.teacher_hours == pytest.approx(answers / 2_000)
    assert cost.alone == cost.together


def test_runs_with_the_same_batches_share_its_answers():
    runs = [config("method=kd"), config("method=ttm"), config("method=scratch")]
    other = [config("method=kd", "seed=1"), config("method=kd", "run.epochs=4")]
    costs = price([*runs, *other], speed_of)
    kd, ttm, scratch, *lonely = costs
    assert kd.alone == ttm.alone
    assert kd.together == ttm.together == pytest.approx(kd.student_hours + kd.teacher_hours / 2)
    assert scratch.together == scratch.student_hours
    assert all(cost.together == pytest.approx(cost.alone) for cost in lonely)


def test_two_views_cost_twice_and_share_what_others_need():
    kd, mlkd = price([config("method=kd"), config("method=mlkd")], speed_of)
    assert mlkd.teacher_hours == 2 * kd.teacher_hours
    assert mlkd.macs == 3 * STUDENT * (6 * IMAGES + TEST) + 6 * TEACHER * IMAGES
    together = kd.shared_hours + mlkd.shared_hours
    assert together == pytest.approx(mlkd.teacher_hours)


def test_under_the_strict_protocol_a_tenth_is_held_out():
    (cost,) = price([config("method=scratch", "run.protocol=strict")], speed_of)
    assert cost.macs == 3 * STUDENT * (3 * 45_000 + 5_000)


def test_a_teacher_is_trained_once_for_all_who_need_it():
    same = [config("method=kd"), config("method=ttm", "seed=3"), config("method=scratch")]
    ((training, student),) = find_stages(same)
    assert student in same[:2]
    (cost,) = price([training], speed_of)
    assert cost.macs == 240 * TEACHER * (3 * IMAGES + TEST)
    other = config("method=kd", "dataset.batch_size=128")
    assert len(find_stages([*same, other])) == 2
    assert find_stages([config("method=kd", "teacher.weights=some.pth")]) == []


def test_each_stage_of_a_chain_costs_once():
    def chain(*overrides):
        recipe = "teacher.recipe=[method=kd,teacher=resnet56,run.epochs=2]"
        return config("teacher=resnet20", "student=resnet20", recipe, *overrides)

    direct = config("method=kd", "seed=4")  # needs the resnet56 of the chain too
    stages = [training for training, _ in find_stages([chain(), chain("seed=2"), direct])]
    assert [stage["pair"] for stage in stages] == ["resnet56", "resnet56_resnet20"]
    first, second = price(stages, speed_of)
    assert first.macs == 240 * TEACHER * (3 * IMAGES + TEST)
    assert second.macs == 2 * STUDENT * (3 * IMAGES + TEST) + 2 * TEACHER * IMAGES


def test_random_images_are_as_many_as_the_config_says():
    tiny = ["debug=smoke", "student=resnet20", "method=scratch", "run.epochs=1"]
    (cost,) = price([resolve_config(compose_config(tiny))], speed_of)
    assert cost.macs == STUDENT * (3 * 512 + 256)


def test_folders_are_counted(tmp_path):
    for name, images in (("train", 4), ("test", 2)):
        for kind in ("cat", "dog"):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (32, 32)).save(folder / f"{number}.png")
    own = ["dataset=folder", f"dataset.root={tmp_path}", "student=resnet20", "method=scratch"]
    (cost,) = price([resolve_config(compose_config([*own, "run.epochs=1"]))], speed_of)
    assert cost.macs == STUDENT * (3 * 8 + 4)


def test_a_dataset_of_unknown_size_is_refused(monkeypatch):
    own = config()
    own["dataset"]["name"] = "mine"
    monkeypatch.setattr("kdbench.data.cifar.CIFAR100.published_images", None)
    with pytest.raises(ConfigError, match="number of images in mine is unknown"):
        price([own], speed_of)
