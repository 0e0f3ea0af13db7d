"""Everything that people and machines get wrong: 76 rows, each with its exit code and its words.

The numbers are those of the rows; a row may have several cases. ``words`` must stand in what is
said, whatever their case; an exit code that is a tuple may be any of them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.helpers.harness import TINY
from tests.helpers.mishaps import (
    Place,
    all_epochs_are_there,
    another_class,
    archive,
    archive_is_kept,
    both,
    checkpoint_is_kept,
    clock_runs_backwards,
    damaged_checkpoints,
    dying_worker,
    empty_class,
    first_image,
    flipped_teacher,
    folders,
    full_disk,
    held,
    lost_in_the_middle,
    malicious_teacher,
    newer_checkpoints,
    no_marker,
    no_memory,
    no_secret,
    nothing_outside,
    photographs,
    reader_has_left,
    replaced_pickles,
    reports,
    resnet,
    runs,
    seconds_are_sound,
    secret,
    teacher,
    train,
    unfinished,
    wandb_with,
    whole_module,
    with_nan,
    wrong_label,
    yaml,
)

ROWS = 76
# What has no subject here, and why: counted apart.
WITHOUT_SUBJECT = {
    49: "no weight file names its classes",
    51: "no loss reads a layer by its name",
    52: "no loss compares feature maps",
    53: "no loss needs features",
    55: "fp16 needs a GPU",
}
CIFAR = ["dataset=cifar10", "teacher=resnet8", "student=resnet8", "method=scratch", "tracker=csv"]
CIFAR += ["run.epochs=1", "run.threads=1", "dataset.batch_size=8"]
# A random teacher is as good as chance, and says so; these rows are about other things.
ANY_TEACHER = ["teacher.expected_top1=0", "teacher.tolerance=100"]


SCRATCH = ["method=scratch"]
IMAGENET = ["dataset=imagenet", "teacher=resnet8", "student=resnet8", "method=scratch"]
IMAGENET += ["tracker=csv", "run.epochs=1", "run.threads=1", "dataset.batch_size=2"]
IMAGENET += ["dataset.num_classes=2", "dataset.image_size=32", "dataset.eval_resize=36"]


@dataclass
class Case:
    """One bad input.

    Attributes:
        row: its number.
        arguments: of the command, without where its outputs are.
        code: exit code.
        words: what must be said.
        prepare: makes files, and gives further arguments.
        check: looks at what was left.
        patch: changes the process (a pytest.MonkeyPatch), for what a machine does wrong.
        again: the same command ends the same way a second time.
        module: of the command.
        apart: in a process of its own in every suite.
    """

    row: int
    arguments: list[str]
    code: int | tuple[int, ...]
    words: tuple[str, ...] = ()
    prepare: Callable[[Place], object] | None = None
    check: Callable[[Place, str], object] | None = None
    patch: Callable | None = None
    again: bool = False
    module: str = "kdbench.cli.train"
    apart: bool = False

    def command(self, place):
        if self.module != "kdbench.cli.train":
            return [*self.arguments, *place.arguments]
        given = {argument.split("=")[0] for argument in [*self.arguments, *place.arguments]}
        base = [] if {"dataset", "table"} & given else TINY
        outputs = [] if "paths.outputs" in given else [f"paths.outputs={place.outputs}"]
        base = [argument for argument in [*base, *outputs] if argument.split("=")[0] not in given]
        return [*base, *self.arguments, *place.arguments]


CASES = [
    Case(1, ["tempreature=3"], 2, ("tempreature", "temperature")),
    Case(
        2,
        ["debug=mine"],
        2,
        ("run.epoch", "mine"),
        yaml("debug/mine.yaml", "# @package _global_\nrun:\n  epoch: 3\n"),
    ),
    Case(3, ["method=foo"], 2, ("foo", "dkd", "kd")),
    Case(4, ["student=resnet8x5"], 2, ("resnet8x5", "resnet8x4")),
    Case(4, ["student=timm", "student.arch=timm:resnet18x"], 2, ("resnet18x", "resnet18")),
    Case(5, ["dataset=cifar1000"], 2, ("cifar1000", "cifar100", "mnist5k")),
    Case(6, ["temperature.tau=abc"], 2, ("temperature.tau", "abc", "float")),
    Case(7, ["temperature.tau=0"], 2, ("tau", "> 0")),
    Case(8, ["temperature.tau=-4"], 2, ("tau", "-4", "> 0")),
    Case(9, ["temperature.tau=nan"], 2, ("tau", "finite")),
    Case(9, ["temperature.tau=inf"], 2, ("tau", "finite")),
    Case(10, ["temperature.tau=1e-30", "run.precision=bf16"], 2, ("tau", "1e-30")),
    Case(11, ["run.epochs=1.5"], 2, ("run.epochs", "1.5", "int")),
    Case(12, ["run.epochs=0"], 2, ("run.epochs", "0", ">= 1")),
    Case(12, ["run.epochs=-3"], 2, ("run.epochs", "-3", ">= 1")),
    Case(13, ["optim.lr=0"], 2, ("optim.lr", "> 0")),
    Case(13, ["optim.lr=-0.1"], 2, ("optim.lr", "> 0")),
    Case(13, ["optim.optimizer.momentum=1.5"], 2, ("momentum", "1.5")),
    Case(14, ["dataset.batch_size=0"], 2, ("dataset.batch_size", ">= 1")),
    Case(
        15,
        [*SCRATCH, "dataset.batch_size=600", "dataset.drop_last=true"],
        3,
        ("40", "600", "0 steps per epoch"),
    ),
    Case(16, [*IMAGENET, "dataset.workers=-1"], 2, ("dataset.workers", "-1")),
    Case(
        17, ["objective.ce_weight=0", "objective.terms.kd.weight=0"], 2, ("weight", "0", "nothing")
    ),
    Case(18, ["objective.terms.kd.weight=-1"], 2, ("weight", "-1")),
    Case(19, ["optim.lr=???"], 2, ("optim.lr", "no value")),
    Case(
        20,
        ["paths.data=${oc.env:KDBENCH_MISSING}"],
        2,
        ("KDBENCH_MISSING",),
        check=no_secret,
        patch=secret,
    ),
    Case(
        21,
        ["debug=mine"],
        2,
        ("mine.yaml", "line 3", "column"),
        yaml("debug/mine.yaml", "# @package _global_\nrun: {\n  epochs: ]\n"),
    ),
    Case(
        22,
        ["debug=mine"],
        2,
        ("mine.yaml", "python"),
        yaml("debug/mine.yaml", "run: !!python/object/apply:os.mkdir [marker]\n"),
        no_marker,
    ),
    Case(23, ["temperature._target_=os.system"], 2, ("os.system", "KDBENCH_ALLOW_TARGETS")),
    Case(24, ["teacher.weights=/no/file.pth"], 4, ("/no/file.pth", "teacher.weights")),
    Case(
        25,
        [],
        4,
        ("folder",),
        lambda place: place.give(f"teacher.weights={place.write('a/b', '').parent}"),
    ),
    Case(25, [], 4, ("teacher.pth", "empty", "0 bytes"), teacher(b"")),
    Case(26, [], 4, ("teacher.pth", "truncated or corrupt"), teacher(lambda: resnet()[:9000])),
    Case(27, [], 4, ("damaged", "digest"), flipped_teacher),
    Case(
        28,
        [],
        4,
        ("teacher.pth", "not a checkpoint", "html"),
        teacher(b"<!DOCTYPE html><html>404</html>"),
    ),
    Case(
        29,
        [],
        4,
        ("lfs pointer", "git lfs pull"),
        teacher(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ),
    Case(
        30,
        [],
        4,
        ("missing", "unexpected", "of another shape", "looks like resnet20"),
        teacher(lambda: resnet("resnet20")),
    ),
    Case(
        31,
        ["run.epochs=1"],
        0,
        ("stripped the prefix 'module.'",),
        teacher(
            lambda: resnet(change=lambda s: {f"module.{k}": v for k, v in s.items()}), *ANY_TEACHER
        ),
        runs(1),
    ),
    Case(
        32,
        [],
        4,
        ("no network weights", "optimizer"),
        teacher(lambda: resnet(change=lambda s: {"optimizer": {"lr": 0.1}, "epoch": 3})),
    ),
    Case(32, [], 4, ("refused", "Linear"), teacher(whole_module)),
    Case(
        33,
        [],
        4,
        ("1000 classes", "dataset has 10", "fc.weight"),
        teacher(lambda: resnet(num_classes=1000)),
    ),
    Case(
        34,
        [],
        4,
        ("1 classes", "dataset has 10", "(1, 64)", "(10, 64)"),
        teacher(lambda: resnet(num_classes=1)),
    ),
    Case(
        35,
        [],
        4,
        ("reaches", "chance", "normalization", "teacher.expected_top1"),
        teacher(lambda: resnet()),
    ),
    Case(
        35,
        ["teacher.expected_top1=99"],
        4,
        ("reaches", "99.00 %", "teacher.tolerance"),
        teacher(lambda: resnet()),
    ),
    Case(36, [], 4, ("fc.bias", "not finite"), teacher(lambda: resnet(change=with_nan))),
    Case(37, [], 4, ("refused", "mkdir"), malicious_teacher, no_marker),
    Case(
        38,
        ["optim.lr=0.01"],
        2,  # the folder is named, not a file of it: as in row 59
        ("holds another run", "optim.lr: 0.05 there, 0.01 here"),
        unfinished(),
        again=True,
    ),
    Case(39, [], 4, ("newer", "99"), newer_checkpoints, again=True),
    Case(40, [], 4, ("damaged", "step"), damaged_checkpoints, again=True),
    Case(
        41,
        CIFAR,
        3,
        ("was not found", "curl", "dataset.download=true"),
        lambda place: place.give(f"paths.data={place.folder / 'none'}"),
    ),
    Case(42, CIFAR, 3, ("cifar-10-python.tar.gz", "c58f30108f718f92"), archive, archive_is_kept),
    Case(43, CIFAR, 3, ("batches.meta", "5ff9c542aee3614f"), replaced_pickles, no_marker),
    Case(44, CIFAR, 3, ("class0/0.png",), folders(first_image(b"\x89PNG\r\n\x1a\n of no use"))),
    Case(45, CIFAR, 3, ("class0/0.png", "0 bytes"), folders(first_image(b""))),
    Case(
        45,
        CIFAR,
        3,
        ("notes.txt", "not an image"),
        folders(lambda place: place.write("data/cifar10/train/class0/notes.txt", "text")),
    ),
    Case(46, CIFAR, 3, ("class3", "empty"), folders(empty_class)),
    Case(
        46,
        CIFAR,
        3,
        ("no class folders",),
        folders(
            classes=0,
            change=lambda place: [
                (place.folder / "data/cifar10" / split).mkdir(parents=True)
                for split in ("train", "test")
            ],
        ),
    ),
    Case(47, CIFAR, 3, ("class3", "other", "same class folders"), folders(another_class)),
    Case(48, CIFAR, 3, ("12", "10"), wrong_label),
    Case(50, ["student=vgg8", "dataset.image_size=4"], 2, ("student", "image_size", "4")),
    Case(
        54, [*SCRATCH, "optim.lr=1e30"], 5, ("not finite at step", "optim.lr", "ce"), check=runs(0)
    ),
    Case(
        56,
        [*SCRATCH, "optim.lr=1e-12", "run.epochs=2"],
        0,
        ("chance",),
        check=runs(1),
    ),
    Case(
        57,
        SCRATCH,
        6,
        ("a-file",),
        lambda place: place.give(f"paths.outputs={place.write('a-file', 'mine')}"),
    ),
    Case(
        58,
        SCRATCH,
        6,
        ("no space left", "needed", "free", "step"),
        check=checkpoint_is_kept,
        patch=full_disk,
    ),
    Case(
        59,
        ["optim.lr=0.01"],
        2,
        ("holds another run", "optim.lr"),
        train,
        again=True,
    ),
    Case(60, SCRATCH, 7, ("process", "since", "wait for it"), held),
    Case(
        61,
        [*SCRATCH, "tracker=wandb", "tracker.required=true"],
        2,
        ("tracker.required",),
        patch=wandb_with(WANDB_API_KEY="canary"),
        apart=True,
    ),
    Case(
        61,
        [*SCRATCH, "tracker=wandb"],
        0,
        ("offline", "wandb sync"),
        check=runs(1),
        patch=wandb_with(WANDB_API_KEY="canary"),
        apart=True,
    ),
    Case(
        62,
        [*SCRATCH, "tracker=wandb", "tracker.init_timeout=1"],
        0,
        ("offline", "wandb sync"),
        check=runs(1),
        patch=wandb_with(WANDB_API_KEY="0123456789" * 4, WANDB_BASE_URL="http://127.0.0.1:9"),
        apart=True,
    ),
    Case(
        63,
        [*SCRATCH, "tracker=wandb"],
        0,
        ("socket is gone", "metrics.csv is complete"),
        check=both(runs(1), all_epochs_are_there),
        patch=lost_in_the_middle,
        apart=True,
    ),
    Case(
        64,
        [*SCRATCH, "tracker=wandb"],
        2,
        ("pip install", "wandb"),
        patch=lambda monkeypatch: monkeypatch.setitem(sys.modules, "wandb", None),
    ),
    Case(65, ["run.device=cuda:77"], 2, ("run.device", "cuda:77", "device(s)")),
    Case(65, ["run.device=tpu"], 2, ("run.device", "tpu", "cpu")),
    Case(66, ["run.device=cpu", "run.precision=fp16"], 2, ("run.precision", "fp16", "cpu")),
    Case(67, SCRATCH, 6, ("out of memory", "dataset.batch_size"), patch=no_memory),
    Case(
        68,
        [*IMAGENET, "dataset.workers=1"],
        (3, 6),
        ("worker",),
        photographs,
        patch=dying_worker,
    ),
    Case(69, ["-m", "seed="], 2, ("seed",)),
    Case(
        69,
        ["-m", "hydra/launcher=basic", *SCRATCH, "seed=1,1"],
        0,
        ("already done",),
        check=runs(1),
    ),
    Case(70, ["-m", "seed=range(20000)"], 2, ("20,000",)),
    Case(
        71,
        ["-m", "hydra/launcher=basic", *SCRATCH, "temperature.tau=2,3"],
        0,
        ("already done",),
        check=runs(1),
    ),
    Case(
        72,
        ["-m", "hydra/launcher=basic", *SCRATCH, "optim.lr=1e30,0.05,0.1"],
        9,
        ("not finite at step",),
        check=runs(2),
    ),
    Case(
        73,
        [],
        0,
        ("0/record.json", "damaged", "1 of 1 run"),
        reports(('"seed": 0', '"seed": 7')),
        module="kdbench.cli.report",
    ),
    Case(
        73,
        [],
        0,
        ("0/record.json", "damaged", "1 of 1 run"),
        reports(("{", "")),
        module="kdbench.cli.report",
    ),
    Case(
        74,
        SCRATCH,
        0,
        ("top-1",),
        check=both(runs(1), seconds_are_sound),
        patch=clock_runs_backwards,
    ),
    *(
        Case(75, [*SCRATCH, f"dataset.name={name}"], 2, ("dataset.name",), check=nothing_outside)
        for name in ("'../../x'", "'a/b'", f"'{'x' * 300}'")
    ),
    *(  # odd, and still names; pages and tables escape them
        Case(75, [*SCRATCH, f"dataset.name={name}"], 0, ("top-1",), check=nothing_outside)
        for name in ("'<script>'", "'\U0001f600'")
    ),
    Case(76, ["--help"], (0, 141), patch=reader_has_left, apart=True),
]
