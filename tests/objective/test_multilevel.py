import pytest
import torch

from kdbench.config.build import build_objective
from kdbench.config.compose import compose_config
from kdbench.objective.kl import KL
from kdbench.objective.multilevel import MedianMask, PredictionAugmentation
from kdbench.temperature.base import uniform
from kdbench.temperature.constant import Constant
from tests.helpers.outputs import of


@pytest.fixture
def strong(set_a):
    teacher = [[-0.5, 0.4, 0.0, 0.1], [0.3, -0.6, 0.2, 0.0]]
    student = [[0.3, -0.2, 0.1, 0.0], [-0.4, 0.2, 0.0, 0.1]]
    shifts = (torch.tensor(shift, dtype=torch.float64) for shift in (teacher, student))
    logits = (z + shift for z, shift in zip(set_a[:2], shifts, strict=True))
    return of(*logits, set_a[2])


def both(set_a, strong):
    """Outputs of two views."""
    return of(*set_a)._replace(views={"strong": strong})


def test_golden_total_of_the_released_loss(set_a, strong):
    terms = build_objective(compose_config(["method=mlkd"]))(both(set_a, strong))
    found = {name: loss.mean().item() for name, loss in terms.terms.items()}
    assert found["ce"] + found["ce_strong"] == pytest.approx(0.1790969049, abs=1e-9)
    instance = sum(loss for name, loss in found.items() if name.startswith("instance"))
    assert instance == pytest.approx(2.8202670525, abs=1e-9)
    assert found["class"] == pytest.approx(0.0150144085, abs=1e-9)
    assert found["batch"] == pytest.approx(0.0150047386, abs=1e-9)
    assert terms.total().item() == pytest.approx(3.0293831045, abs=1e-9)


def test_golden_sum_over_the_five_temperatures(set_a):
    others = [Constant(tau) for tau in (2.0, 3.0, 5.0, 6.0)]
    loss = PredictionAugmentation(KL(), base=True, others=others)
    value = loss(of(*set_a), uniform(4.0, like=set_a[0])).mean().item()
    assert value == pytest.approx(2.8207757860, abs=1e-9)


def test_the_mask_is_a_factor(set_a):
    temperatures = uniform(4.0, like=set_a[0])
    for over in ("samples", "classes"):
        for standardise in (False, True):
            masked = MedianMask(KL(), over, standardise)(of(*set_a), temperatures)
            torch.testing.assert_close(masked, 0.5 * KL()(of(*set_a), temperatures))


@pytest.mark.parametrize("method", ["mlkd", "mlkd_logit_std", "mlkd_atkd"])
def test_every_level_has_a_gradient_on_both_views(set_a, strong, method):
    teacher, student, targets = set_a
    student.requires_grad_()
    leaf = strong.student.logits.clone().requires_grad_()
    view = of(strong.teacher.logits, leaf, targets)
    objective = build_objective(compose_config([f"method={method}"]))
    assert objective.views == ("weak", "strong")
    objective(both((teacher, student, targets), view)).total().backward()
    assert student.grad.isfinite().all()
    assert (student.grad.abs().sum(1) > 0).all()
    assert (leaf.grad.abs().sum(1) > 0).all()


def test_the_temperature_of_atkd_is_that_of_each_view(set_a, strong):
    objective = build_objective(compose_config(["method=mlkd_atkd"]))
    seen = []
    forward = objective.temperature.forward
    objective.temperature.forward = lambda *a: seen.append(a[0].logits[0]) or forward(*a)
    objective(both(set_a, strong))
    assert len(seen) == 2
    assert torch.equal(seen[0], strong.teacher.logits)
    assert torch.equal(seen[1], set_a[0])  # the last one, which observe() uses


def test_a_missing_view_is_an_error(set_a):
    with pytest.raises(ValueError, match="needs the outputs of a strong view"):
        build_objective(compose_config(["method=mlkd"])).from_logits(*set_a)


def test_invalid_values_are_rejected():
    with pytest.raises(ValueError, match="there is no temperature"):
        PredictionAugmentation(KL(), base=False, others=[])
    with pytest.raises(ValueError, match="over must be"):
        MedianMask(KL(), "rows", False)


def test_golden_total_of_the_two_view_form_of_cskd(set_a, strong):
    objective = build_objective(compose_config(["method=cskd_two_view"]))
    terms = objective(both(set_a, strong))
    found = {name: loss.mean().item() for name, loss in terms.terms.items()}
    assert found["ce"] + found["ce_strong"] == pytest.approx(1.7909690494, abs=1e-9)
    assert found["cskd"] + found["cskd_strong"] == pytest.approx(1.6157028815, abs=1e-9)
    assert found["class"] == pytest.approx(0.0201862530, abs=1e-9)
    assert found["batch"] == pytest.approx(0.0112869545, abs=1e-9)
    assert terms.total().item() == pytest.approx(3.4381451384, abs=1e-9)
