"""What every loss promises, whatever its rule."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.objective.ckd import CKD
from kdbench.objective.cskd import CSKD
from kdbench.objective.dist import Inter, Intra
from kdbench.objective.dkd import NCKD, TCKD
from kdbench.objective.gram import BatchGram, ClassGram
from kdbench.objective.js import JS
from kdbench.objective.kl import KL
from kdbench.objective.mse import MSE
from kdbench.objective.nkd import NKDNonTarget, NKDTarget
from kdbench.temperature.base import Temperatures, uniform
from tests.helpers.outputs import of

PER_SAMPLE = {
    "kl": KL(),
    "tckd": TCKD(),
    "nckd": NCKD(),
    "nkd_target": NKDTarget(),
    "nkd_non_target": NKDNonTarget(),
    "inter": Inter(),
    "mse": MSE(),
    "js": JS(),
}
OF_A_BATCH = {
    "intra": Intra(),
    "cskd": CSKD(),
    "ckd": CKD(),
    "batch_gram": BatchGram("squared"),
    "class_gram": ClassGram("squared"),
    "batch_gram_cosine": BatchGram("cosine"),
    "class_gram_cosine": ClassGram("cosine"),
}
EVERY = PER_SAMPLE | OF_A_BATCH
every_loss = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


def shapes(test):
    """Runs a test on drawn inputs of many shapes."""
    drawn = given(seed=st.integers(0, 2**20), classes=st.integers(2, 30), batch=st.integers(1, 6))
    return settings(deadline=None, derandomize=True, max_examples=25)(drawn(test))


def draw(seed, classes, batch):
    """Logits, targets and temperatures that differ between samples and between networks."""
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, batch, classes, generator=generator).double()
    taus = 0.5 + 5 * torch.rand(2, batch, 1, generator=generator).double()
    scale = 10 * torch.rand(batch, generator=generator).double()
    targets = torch.randint(classes, (batch,), generator=generator)
    return teacher, student, targets, Temperatures(*taus, scale)


@pytest.mark.parametrize("loss", PER_SAMPLE.values(), ids=PER_SAMPLE)
@shapes
def test_a_sample_does_not_depend_on_its_batch(loss, seed, classes, batch):
    *logits, temperatures = draw(seed, classes, batch)
    found = loss(of(*logits), temperatures)
    assert found.shape == (batch,)
    for b in range(batch):
        alone = loss(
            of(*(x[b : b + 1] for x in logits)),
            Temperatures(*(t[b : b + 1] for t in temperatures)),
        )
        torch.testing.assert_close(found[b : b + 1], alone)


@pytest.mark.parametrize("loss", OF_A_BATCH.values(), ids=OF_A_BATCH)
@shapes
def test_a_loss_of_the_batch_is_spread_over_it(loss, seed, classes, batch):
    teacher, student, targets, temperatures = draw(seed, classes, batch)
    found = loss(of(teacher, student, targets), temperatures)
    assert found.shape == (batch,)
    assert (found == found[0]).all()
    mean_scale = temperatures.scale.mean().expand(batch)
    same = loss(of(teacher, student, targets), temperatures._replace(scale=mean_scale))
    torch.testing.assert_close(found, same)


@every_loss
@shapes
def test_names_and_order_do_not_matter(loss, seed, classes, batch):
    teacher, student, targets, temperatures = draw(seed, classes, batch)
    found = loss(of(teacher, student, targets), temperatures)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = order.argsort()[targets]
    torch.testing.assert_close(
        loss(of(teacher[:, order], student[:, order], renamed), temperatures),
        found,
    )
    turned = Temperatures(*(t.flip(0) for t in temperatures))
    torch.testing.assert_close(
        loss(of(teacher.flip(0), student.flip(0), targets.flip(0)), turned),
        found.flip(0),
    )


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"mse", "ckd"}))  # these have no softmax
@shapes
def test_a_constant_added_to_a_row_does_not_count(name, seed, classes, batch):
    teacher, student, targets, temperatures = draw(seed, classes, batch)
    found = EVERY[name](of(teacher, student, targets), temperatures)
    shifted = EVERY[name](of(teacher + 5, student - 7, targets), temperatures)
    torch.testing.assert_close(shifted, found)


@pytest.mark.parametrize(
    "name", ["kl", "tckd", "nckd", "mse", "js", "ckd", "batch_gram", "class_gram"]
)
@shapes
def test_nothing_to_learn_at_equality(name, seed, classes, batch):
    teacher, _, targets, temperatures = draw(seed, classes, batch)
    temperatures = temperatures._replace(student=temperatures.teacher)
    student = teacher.clone().requires_grad_()
    found = EVERY[name](of(teacher, student, targets), temperatures)
    found.mean().backward()
    assert found.abs().max() < 1e-9
    assert student.grad.abs().max() < 1e-9


@pytest.mark.parametrize(
    "name", ["inter", "intra", "cskd", "batch_gram_cosine", "class_gram_cosine"]
)
def test_next_to_nothing_to_learn_at_equality(name, set_a3):
    # The 1e-8 beside the norms keeps a cosine a little below 1.
    teacher, _, targets = set_a3
    student = teacher.clone().requires_grad_()
    found = EVERY[name](of(teacher, student, targets), uniform(1.0, like=teacher))
    found.mean().backward()
    assert found.abs().max() < 1e-6
    assert student.grad.abs().max() < 1e-6


@every_loss
def test_gradient_numerically(loss):
    teacher, student, targets, temperatures = draw(seed=3, classes=5, batch=4)

    def value(student, *temperatures):
        return loss(of(teacher, student, targets), Temperatures(*temperatures))

    inputs = [x.clone().requires_grad_() for x in (student, *temperatures)]
    assert torch.autograd.gradcheck(value, inputs)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_half_precision_logits_keep_a_precise_loss(loss, dtype, tau, size):
    generator = torch.Generator().manual_seed(2)
    teacher, student = size * torch.randn(2, 64, 100, generator=generator).clamp(-3.3, 3.3)
    teacher, student, targets = teacher.to(dtype), student.to(dtype), torch.arange(64)
    found = loss(of(teacher, student, targets), uniform(tau, like=teacher.float()))
    exact = loss(
        of(teacher.double(), student.double(), targets),
        uniform(tau, like=teacher.double()),
    )
    assert found.dtype == torch.float32
    # A sum that cancels keeps the resolution of its parts, which the scale tau^2 magnifies.
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-6 * max(tau**2, 1))


@every_loss
@pytest.mark.parametrize("tau", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_gradients_in_float32_are_precise(loss, tau, size):
    generator = torch.Generator().manual_seed(4)
    teacher, student = size * torch.randn(2, 64, 100, generator=generator)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = student.to(dtype).requires_grad_()
        outputs = of(teacher.to(dtype), leaf, torch.arange(64))
        found = loss(outputs, uniform(tau, like=leaf.detach()))
        gradients += torch.autograd.grad(found.mean(), leaf)
    found, exact = gradients
    assert (found - exact).norm() < 1e-3 * exact.norm()


def extreme_logits(kind, batch, classes):
    certain = torch.eye(classes)[torch.arange(batch) % classes]
    return {
        "certain": 200 * certain,  # the target's probability rounds to 1
        "wrong": 200 * certain.roll(1, dims=1),
        "uniform": 0 * certain,
        "huge": -1e4 * certain,
    }[kind]


@every_loss
@pytest.mark.parametrize(
    ("of_teacher", "of_student"),
    [
        ("certain", "certain"),
        ("certain", "wrong"),
        ("wrong", "certain"),
        ("uniform", "uniform"),
        ("certain", "uniform"),
        ("uniform", "certain"),
        ("huge", "certain"),
        ("certain", "huge"),
    ],
)
def test_extreme_logits_keep_loss_and_gradient_finite(loss, of_teacher, of_student):
    for batch, classes, tau in itertools.product([1, 2, 3], [2, 5], [0.5, 1.0, 6.0]):
        teacher = extreme_logits(of_teacher, batch, classes)
        student = extreme_logits(of_student, batch, classes).requires_grad_()
        found = loss(
            of(teacher, student, torch.arange(batch) % classes),
            uniform(tau, like=teacher),
        )
        found.mean().backward()
        assert found.isfinite().all()
        assert student.grad.isfinite().all()
