import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from kdbench.objective.js import JS
from kdbench.objective.kl import KL
from kdbench.temperature.base import uniform
from tests.helpers.outputs import of


def js(teacher, student, tau):
    return JS()(
        of(teacher, student, torch.zeros(len(teacher)).long()),
        uniform(tau, like=teacher),
    )


@settings(deadline=None, derandomize=True)
@given(
    tau=st.floats(0.5, 20),
    size=st.floats(0.1, 50),
    seed=st.integers(0, 2**20),
    classes=st.integers(2, 50),
)
def test_properties(tau, size, seed, classes):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = size * torch.randn(2, 4, classes, generator=generator).double()
    found = js(teacher, student, tau)
    p, q = (teacher / tau).softmax(1), (student / tau).softmax(1)
    reference = torch.tensor(jensenshannon(p, q, axis=1) ** 2)
    torch.testing.assert_close(found, tau**2 * reference, rtol=1e-6, atol=1e-8 * tau**2)
    torch.testing.assert_close(found, js(student, teacher, tau))
    assert (found >= -1e-12).all()
    assert (found <= tau**2 * math.log(2) * (1 + 1e-12)).all()


def test_distributions_apart_reach_the_bound():
    teacher, student = 200 * torch.eye(2).double()[:1], 200 * torch.eye(2).double()[1:]
    torch.testing.assert_close(js(teacher, student, 1.0).item(), math.log(2))


def test_near_the_teacher_it_is_a_quarter_of_kl():
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(2, 5, 10, generator=generator).double()
    temperatures = uniform(2.0, like=teacher)
    divergence = KL()(of(teacher, teacher + 1e-3 * noise, None), temperatures)
    torch.testing.assert_close(
        js(teacher, teacher + 1e-3 * noise, 2.0), divergence / 4, rtol=1e-2, atol=0
    )
