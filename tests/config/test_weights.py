"""Where a teacher's weights are: a file, a run, a folder of published teachers, a library."""

from dataclasses import replace

import pytest

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key, teacher_file
from kdbench.config.weights import find_record, find_weights
from kdbench.errors import CheckpointError, ConfigError
from tests.helpers.paths import SHARED
from tests.records.test_record import make_record

# As RepDistiller's and mdistiller's downloads unpack, and the pairs of conf/table/dkd_cifar100.
PUBLISHED = {
    "resnet56": "resnet56_vanilla",
    "resnet110": "resnet110_vanilla",
    "resnet32x4": "resnet32x4_vanilla",
    "resnet50": "ResNet50_vanilla",
    "vgg13": "vgg13_vanilla",
    "wrn_40_2": "wrn_40_2_vanilla",
}


def plain(weights, arch="resnet56"):
    return {"teacher": {"weights": str(weights), "model": {"arch": arch}}}


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(f"{folder.name}/{name}".encode())
    return folder


@pytest.fixture
def teachers(tmp_path):
    for name in PUBLISHED.values():
        fill(tmp_path / "teachers" / name, "ckpt_epoch_240.pth")
    return tmp_path / "teachers"


@pytest.mark.parametrize(("arch", "name"), PUBLISHED.items())
def test_a_published_teacher_is_found_by_its_network(teachers, arch, name):
    file = teachers / name / "ckpt_epoch_240.pth"
    assert find_weights(plain(teachers, arch)) == file
    assert find_weights(plain(teachers / name, arch)) == file  # its own folder does as well


def test_a_whole_table_takes_its_teachers_from_one_folder(teachers, tmp_path):
    from kdbench.planning.plan import plan_table

    overrides = [f"teacher.weights={teachers}", f"paths.outputs={tmp_path}/out", "seed=0"]
    plan = plan_table("dkd_cifar100", [*overrides, f"paths.data={SHARED}/data", "method=kd"])
    assert plan.problems == []
    found = {run.cell[1]: teacher_file(run.config).parent.name for run in plan.runs}
    assert len(found) == 11
    assert found["cifar100, resnet50_mobilenetv2"] == "ResNet50_vanilla"
    assert set(found.values()) == set(PUBLISHED.values())


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet8x4", "resnet8x4_cifar100_lr_0.05_decay_0.0005_trial_0"),
        ("shufflenetv1", "ShuffleV1_vanilla"),
        ("shufflenetv2", "shufflenetv2"),
        ("mobilenetv2", "MobileNetV2_vanilla"),
        ("torchvision:resnet34", "resnet34_vanilla"),
        ("wrn_16_2", "wrn_16_2_cifar100_lr_0.05_decay_0.0005_trial_1"),
    ],
)
def test_names_of_folders_are_read_as_people_write_them(tmp_path, arch, name):
    fill(tmp_path / "all" / "resnet32x4_vanilla", "ckpt_epoch_240.pth")
    fill(tmp_path / "all" / name, "weights.safetensors")
    found = find_weights(plain(tmp_path / "all", arch))
    assert found == tmp_path / "all" / name / "weights.safetensors"


def test_of_several_epochs_the_last_is_the_teacher(tmp_path):
    names = [f"ckpt_epoch_{epoch}.pth" for epoch in (40, 80, 240)]
    fill(tmp_path / "resnet56_vanilla", *names, "resnet56_best.pth")
    assert find_weights(plain(tmp_path)).name == "ckpt_epoch_240.pth"


def test_what_is_ambiguous_is_refused_with_what_was_found(teachers, tmp_path):
    def refused(weights, arch="resnet56"):
        with pytest.raises(CheckpointError, match=r"teacher\.weights=") as error:
            find_weights(plain(weights, arch))
        return str(error.value)

    unknown = refused(teachers, "resnet20")
    assert "without a teacher resnet20" in unknown
    assert "resnet110_vanilla, resnet32x4_vanilla, resnet56_vanilla" in unknown
    fill(teachers / "resnet56_cifar100_trial_1", "a.pth")
    assert "several folders for resnet56" in refused(teachers)
    two = fill(tmp_path / "two" / "resnet56_vanilla", "a.pth", "b.pth")
    assert "several checkpoints: a.pth, b.pth" in refused(two.parent)
    assert "no checkpoint" in refused(fill(tmp_path / "none" / "resnet56_vanilla").parent)
    assert "found nothing" in refused(fill(tmp_path / "empty"))
    assert "must be a file" in refused(tmp_path / "missing")


def test_the_folder_of_a_finished_run_is_its_student(tmp_path):
    run = fill(tmp_path / "run", "student.safetensors")
    record = make_record(student="resnet56", status="done")
    record.write(run)
    assert find_weights(plain(run)) == run / "student.safetensors"
    assert find_record(plain(run)).weights_digest == record.weights_digest
    with pytest.raises(
        CheckpointError, match="a run that trained resnet56, but the teacher is vgg13"
    ):
        find_weights(plain(run, "vgg13"))
    replace(record, status="failed", reason="diverged").write(run)
    with pytest.raises(CheckpointError, match="without final weights"):
        find_weights(plain(run))


def test_a_folder_counts_as_the_file_in_it(teachers, tmp_path):
    def key(weights):
        own = ["debug=smoke", "teacher=resnet56", f"paths.outputs={tmp_path}"]
        return run_key(compose_config([*own, f"teacher.weights={weights}"]))

    file = teachers / "resnet56_vanilla" / "ckpt_epoch_240.pth"
    assert key(teachers) == key(file)
    before = key(teachers)
    file.write_bytes(b"another")
    assert key(teachers) != before


def test_a_published_teacher_of_the_field_is_found():
    if not (SHARED / "teachers").is_dir():
        pytest.skip("there are no teachers beside this repository")
    found = find_weights(plain(SHARED / "teachers"))
    assert found.name == "ckpt_epoch_24.pth"


def test_only_libraries_have_pretrained_weights():
    with pytest.raises(ConfigError, match="for networks of timm and torchvision"):
        find_weights(plain("pretrained"))
