"""What the tests of single strategies share: losses, gradients, and inputs that break formulas."""

import torch

from kdbench.objective.kl import KL
from kdbench.objective.objective import Objective, Term
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures
from tests.helpers.outputs import of


def at_epoch(epoch):
    """The first step of a 0-based epoch."""
    return Progress(step=10 * epoch, total_steps=1000, epoch=epoch, total_epochs=100)


def decide(strategy, teacher, student, progress=None):
    targets = torch.zeros(len(student), dtype=torch.long)
    return strategy(of(teacher, student, targets), progress or at_epoch(0))


def kd(teacher, student, temperatures):
    """[B] scaled KL divergence."""
    return KL()(of(teacher, student, None), temperatures)


def kd_gradient(strategy, teacher, student, detach=False):
    """Gradient of the mean loss; ``detach`` cuts the way through the temperatures."""
    student = student.clone().requires_grad_()
    found = decide(strategy, teacher, student)
    if detach:
        found = Temperatures(*(tensor.detach() for tensor in found))
    kd(teacher, student, found).mean().backward()
    return student.grad


def objective(strategy, ce_weight, weight):
    return Objective("probe", ce_weight, {"kd": Term(loss=KL(), weight=weight)}, strategy)


def near(found, expected, tolerance=1e-9):
    """Raises unless all numbers agree to an absolute tolerance."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach(), expected, atol=tolerance, rtol=0)


def normal(batch=256, classes=10, size=3.0, seed=0):
    """Ordinary teacher and student logits, [B, K] float64 each."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)


def _rows(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


_TEACHER, _STUDENT = normal(batch=4, classes=4, size=1e4, seed=1)
_USUAL = _rows(4.0, 1.0, -1.0, 0.5)
DEGENERATE = {
    "constant teacher": (torch.ones_like(_USUAL), _USUAL),
    "constant student": (_USUAL, torch.ones_like(_USUAL)),
    "zero student": (_USUAL, torch.zeros_like(_USUAL)),
    "both zero": (torch.zeros_like(_USUAL), torch.zeros_like(_USUAL)),
    "both constant": (torch.full_like(_USUAL, 1.1), torch.full_like(_USUAL, -7.3)),
    "nearly constant student": (_USUAL, 1 + 1e-9 * _USUAL),
    "equal": (_USUAL, _USUAL),
    "equal rows": (_USUAL.repeat(3, 1), _USUAL.flip(1).repeat(3, 1)),
    "one sample": (_USUAL, _rows(2.0, 1.5, -0.5, 0.0)),
    "negative student": (_USUAL, -_USUAL.abs() - 5),
    "negative teacher": (-_USUAL.abs() - 5, _USUAL),
    "both negative": (-_USUAL.abs(), -_USUAL.abs() - 5),
    "maxima cancel": (_USUAL, _rows(-4.0, -5.0, -6.0, -7.0)),
    "maxima nearly cancel": (_USUAL, _rows(-4.000001, -5.0, -6.0, -7.0)),
    "huge": (_TEACHER, _STUDENT),
    "huge teacher": (_TEACHER, 1e-4 * _STUDENT),
    "huge student": (1e-4 * _TEACHER, _STUDENT),
    "huge and one-hot": (_rows(1e4, -1e4, -1e4, -1e4), _rows(-1e4, 1e4, -1e4, -1e4)),
    "huge and constant": (torch.full_like(_USUAL, 1e4), torch.full_like(_USUAL, -1e4)),
}


def assert_survives(strategy, name, dtype=torch.float32):
    """Positive, finite temperatures, finite scale, loss and gradient on degenerate logits."""
    teacher, student = (logits.to(dtype) for logits in DEGENERATE[name])
    student = student.clone().requires_grad_()
    found = decide(strategy, teacher, student)
    assert all(tensor.isfinite().all() and tensor.dtype == dtype for tensor in found)
    assert (found.teacher > 0).all()
    assert (found.student > 0).all()
    loss = kd(teacher, student, found)
    loss.mean().backward()
    assert loss.isfinite().all()
    assert student.grad.isfinite().all()
