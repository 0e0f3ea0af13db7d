"""The training loops of the README and of docs/own.md, as they stand there."""

import re
import warnings

import pytest
import torch

import kdbench
from tests.helpers.paths import ROOT

README, PAGE = ROOT / "README.md", ROOT / "docs" / "own.md"


def code_of_the_loop(document):
    section = document.read_text().partition("## In your own loop")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def run_the_loop(tmp_path, monkeypatch, method, **changes):
    """Runs it on small networks, for 20 steps, with what it leaves to the reader."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    teacher = kdbench.load_model("resnet8", num_classes=10)
    torch.save({"model": teacher.state_dict()}, "ckpt_epoch_240.pth")
    changes = {
        '"ctkd", "temperature.tau_range=20"': f'"{method}"',
        '"resnet56"': '"resnet8"',
        '"resnet20"': '"resnet8"',
        "num_classes=100": "num_classes=10",
        "epochs, step = 240, 0": "epochs, step = 10, 0",
        "objective.param_groups()]": "objective.param_groups()]; before = copy(objective)",
        **changes,
    }
    code = code_of_the_loop(PAGE)
    for old, new in changes.items():
        assert old in code, old
        code = code.replace(old, new)
    images, targets = torch.randn(2, 4, 3, 32, 32), torch.randint(10, (2, 4))
    space = {"loader": list(zip(images, targets, strict=True)), "copy": state_of}
    exec(code, space)
    return space["before"], state_of(space["objective"])


def state_of(objective):
    return {name: value.detach().clone() for name, value in objective.named_parameters()}


def test_the_short_loop_of_the_readme_learns():
    torch.manual_seed(0)
    batches = iter(zip(torch.randn(8, 4, 8), torch.randint(10, (8, 4)), strict=True))
    space = {
        **{"kdbench": kdbench, "torch": torch, "batches": batches},
        **{"steps": 8, "steps_per_epoch": 2},
        **{"teacher": torch.nn.Linear(8, 10), "student": torch.nn.Linear(8, 10)},
    }
    start = space["student"].weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code_of_the_loop(README), space)
    assert not torch.equal(space["student"].weight, start)
    assert space["progress"].fraction > 0.8


@pytest.mark.parametrize("method", ["kd", "ctkd", "mkd", "rlkd"])
def test_what_can_be_learned_is_learned(tmp_path, monkeypatch, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, after = run_the_loop(tmp_path, monkeypatch, method)
    assert before.keys() == after.keys()
    assert bool(before) == (method != "kd")
    if before:
        assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("method", "words"), [("ctkd", "param_groups"), ("mkd", "observe"), ("rlkd", "observe")]
)
def test_a_loop_that_leaves_it_out_is_told_once(method, words):
    objective = kdbench.load_objective(method)
    student = torch.nn.Linear(4, 10)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    images, targets = torch.randn(8, 4), torch.arange(8)

    def train(steps):
        for _ in range(steps):
            loss = objective.from_logits(torch.randn(8, 10), student(images), targets).total()
            optimizer.zero_grad(), loss.backward(), optimizer.step()

    with pytest.warns(UserWarning, match=words) as caught:
        train(120)
    assert len(caught) == 1


# A warm-up may begin at 0; fused optimizers leave no trace of a step that changes nothing.
@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": 0.0, "foreach": True}, {"lr": 0.1, "fused": True}],
)
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_no_false_alarm(optimizer_class, options):
    objective = kdbench.load_objective("ctkd")
    student = torch.nn.Linear(4, 10)
    groups = [{"params": student.parameters()}, *objective.param_groups()]
    optimizer = optimizer_class(groups, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            logits = student(torch.randn(8, 4))
            objective.from_logits(torch.randn(8, 10), logits, torch.arange(8)).total().backward()
            optimizer.step()
        with torch.no_grad():  # evaluation is no training
            objective.from_logits(torch.randn(8, 10), student(torch.randn(8, 4)), torch.arange(8))


def test_public_names_are_seen():
    assert {"Outputs", "Progress", "load_model", "load_objective", "load_run"} <= set(dir(kdbench))
    assert all(callable(getattr(kdbench, name)) for name in kdbench.__all__)


@pytest.mark.parametrize(
    "overrides",
    [
        "temperature=cosine temperature.start=6",
        ["temperature=cosine", "temperature.start=6"],
        ("temperature=cosine", "temperature.start=6.0"),
    ],
)
def test_overrides_may_be_one_string(overrides):
    assert kdbench.load_objective("kd", overrides).temperature.start == 6
