import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.objective.dist import Inter, Intra
from kdbench.temperature.base import uniform
from tests.helpers.outputs import of

GOLDEN = [
    ("set_a", 1.0, 0.2845540263, 0.5000044910),
    ("set_a", 4.0, 2.3269522419, 8.0000023711),
    ("set_a3", 1.0, 0.3776111199, 0.2366731801),
    ("set_a3", 4.0, 3.8268253614, 2.8654732718),
]


@pytest.mark.parametrize(("inputs", "tau", "inter", "intra"), GOLDEN)
def test_golden_values(inputs, tau, inter, intra, request):
    inputs = request.getfixturevalue(inputs)
    temperatures = uniform(tau, like=inputs[0])
    assert Inter()(of(*inputs), temperatures).mean().item() == pytest.approx(inter, abs=1e-9)
    assert Intra()(of(*inputs), temperatures).mean().item() == pytest.approx(intra, abs=1e-9)


def test_golden_total_of_the_objective(set_a3):
    cfg = compose_config(["objective=dist", "temperature=constant", "temperature.tau=4"])
    terms = build_objective(cfg).from_logits(*set_a3).terms
    found = terms["inter"].mean() + terms["intra"].mean()
    assert found.item() == pytest.approx(6.6922986332, abs=1e-9)
    assert cfg.objective.ce_weight == 1.0


def test_correlations_are_those_of_scipy():
    teacher, student = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0)).double()
    arguments = (of(teacher, student, torch.zeros(6).long()), uniform(1.0, like=teacher))
    p, q = teacher.softmax(1).numpy(), student.softmax(1).numpy()
    rows = [pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)]
    columns = [pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)]
    np.testing.assert_allclose(Inter()(*arguments), 1 - np.array(rows), atol=1e-5)
    np.testing.assert_allclose(Intra()(*arguments), np.full(6, 1 - np.mean(columns)), atol=1e-5)


def test_one_sample_has_no_relation_to_others(set_a):
    teacher, student = set_a[0][:1], set_a[1][:1].clone().requires_grad_()
    loss = Intra()(of(teacher, student, set_a[2][:1]), uniform(4.0, like=teacher))
    loss.sum().backward()
    assert loss.tolist() == [16.0]
    assert not student.grad.any()


def test_a_uniform_row_is_uncorrelated(set_a):
    flat = torch.zeros_like(set_a[1])
    loss = Inter()(of(set_a[0], flat, set_a[2]), uniform(1.0, like=flat))
    torch.testing.assert_close(loss, torch.ones_like(loss))
