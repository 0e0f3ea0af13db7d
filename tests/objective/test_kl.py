import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.objective.kl import KL
from kdbench.temperature.base import Temperatures, uniform
from tests.helpers.outputs import of
from tests.helpers.paths import ROOT


def kl(teacher, student, tau):
    return KL()(
        of(teacher, student, torch.zeros(len(teacher)).long()),
        uniform(tau, like=teacher),
    )


@pytest.mark.parametrize(
    ("tau", "golden"), [(1.0, 0.3184768783), (2.0, 0.5177597553), (4.0, 0.5778604804)]
)
def test_golden_values_of_set_a(set_a, tau, golden):
    assert kl(*set_a[:2], tau).mean().item() == pytest.approx(golden, abs=1e-9)


def test_golden_gradient_of_set_a(set_a):
    teacher, student, _ = set_a
    student.requires_grad_()
    kl(teacher, student, 4.0).mean().backward()
    golden = [
        [-0.2579178201, 0.1493925601, 0.0906111680, 0.0179140920],
        [0.1069173653, -0.2069509421, 0.0015118925, 0.0985216843],
    ]
    torch.testing.assert_close(
        student.grad, torch.tensor(golden, dtype=torch.float64), atol=1e-9, rtol=0
    )


@settings(deadline=None)
@given(
    tau=st.floats(0.5, 20),
    seed=st.integers(0, 2**20),
    classes=st.integers(2, 50),
    batch=st.integers(1, 5),
)
def test_properties(tau, seed, classes, batch):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, batch, classes, generator=generator).double()
    found = kl(teacher, student, tau)
    reference = F.kl_div(
        F.log_softmax(student / tau, 1), F.softmax(teacher / tau, 1), reduction="none"
    ).sum(1)
    torch.testing.assert_close(found, tau**2 * reference)
    assert (found >= -1e-12).all()
    assert kl(teacher, teacher, tau).abs().max() < 1e-9
    torch.testing.assert_close(kl(teacher + 5, student - 7, tau), found)  # invariant to shifts
    order = torch.randperm(classes, generator=generator)
    torch.testing.assert_close(kl(teacher[:, order], student[:, order], tau), found)
    twice = kl(teacher.repeat(2, 1), student.repeat(2, 1), tau)
    torch.testing.assert_close(twice.mean(), found.mean())


def test_gradient_numerically():
    teacher, student = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    temperatures = torch.full((3, 1), 2.5).double()

    def loss(student, teacher_tau, student_tau, scale):
        return KL()(
            of(teacher, student, None),
            Temperatures(teacher_tau, student_tau, scale),
        )

    inputs = [student, temperatures, temperatures * 1.3, temperatures[:, 0] ** 2]
    assert torch.autograd.gradcheck(loss, [i.clone().requires_grad_() for i in inputs])


def test_large_temperature_is_regression_of_centred_logits():
    teacher, student = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(1)).double()
    centred = (teacher - teacher.mean(1, True)) - (student - student.mean(1, True))
    torch.testing.assert_close(
        kl(teacher, student, 1e4), centred.square().sum(1) / 20, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_half_precision_logits_keep_a_precise_loss(dtype, tau, size):
    generator = torch.Generator().manual_seed(2)
    teacher, student = size * torch.randn(2, 64, 100, generator=generator).clamp(-3.3, 3.3)
    teacher, student = teacher.to(dtype), student.to(dtype)
    found = kl(teacher, student, tau)
    exact = kl(teacher.double(), student.double(), tau)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-6)


def test_only_one_file_divides_logits_by_a_temperature():
    pattern = re.compile(r"logits\w*\s*/|/\s*(tau|temperatures?(\.\w+)?)\b")
    found = {
        path.name
        for folder in ("objective", "temperature", "engine", "plugin")
        for path in (ROOT / "kdbench" / folder).glob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line.split("#")[0]) and not line.strip().startswith(("Rule:", "q ="))
    }
    assert found == {"soften.py"}
