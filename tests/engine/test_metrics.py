import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, pearsonr

from kdbench.engine.metrics import TrainMeter, calibration_error, evaluate_logits
from kdbench.objective.objective import LossTerms
from kdbench.outputs import Outputs
from kdbench.temperature.base import Temperatures


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 200, 10, generator=generator)
    return student, torch.randint(10, (200,), generator=generator), teacher


def test_against_scipy_and_numpy(split):
    student, targets, teacher = (t.numpy() for t in split)
    found = evaluate_logits(*(split[0], split[1], split[2]))
    order = np.argsort(-student, axis=1)
    assert found["top1"] == pytest.approx(100 * (order[:, 0] == targets).mean())
    assert found["top5"] == pytest.approx(100 * (order[:, :5] == targets[:, None]).any(1).mean())
    log_q = log_softmax(student.astype(float), axis=1)
    assert found["nll"] == pytest.approx(-log_q[np.arange(200), targets].mean(), rel=1e-5)
    same = student.argmax(1) == teacher.argmax(1)
    assert found["agreement"] == pytest.approx(100 * same.mean())
    p, q = softmax(teacher.astype(float), axis=1), np.exp(log_q)
    assert found["teacher_kl"] == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-5)
    correlations = [pearsonr(a, b).statistic for a, b in zip(student, teacher, strict=True)]
    assert found["logit_correlation"] == pytest.approx(np.mean(correlations), rel=1e-5)


def test_calibration_error_by_its_definition(split):
    log_q = torch.log_softmax(split[0], 1)
    confidence, predicted = (t.numpy() for t in log_q.exp().max(1))
    correct = predicted == split[1].numpy()
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert calibration_error(log_q, split[1]) == pytest.approx(100 * expected, abs=1e-4)


def test_few_classes_and_no_teacher():
    found = evaluate_logits(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]), None)
    assert (found["top1"], found["top5"]) == (50.0, 100.0)
    assert "agreement" not in found


def batch(seed, size):
    generator = torch.Generator().manual_seed(seed)
    temperature = 1 + torch.rand(size, 1, generator=generator)
    terms = {
        "ce": torch.rand(size, generator=generator),
        "kd": torch.rand(size, generator=generator),
    }
    logits = torch.rand(size, 3, generator=generator)
    targets = torch.randint(3, (size,), generator=generator)
    temperatures = Temperatures(temperature, 2 * temperature, temperature[:, 0])
    return LossTerms(terms, temperatures), Outputs.from_logits(None, logits, targets)


def test_train_meter_weighs_samples_and_not_batches():
    meter, batches = TrainMeter(), [batch(seed, size) for seed, size in enumerate([8, 8, 3])]
    for each in batches:
        meter.update(*each)
    found = meter.compute()
    everything = {name: torch.cat([b[0].terms[name] for b in batches]) for name in ("ce", "kd")}
    assert found["train/kd"] == pytest.approx(everything["kd"].mean().item())
    assert found["train/loss"] == pytest.approx(sum(v.mean().item() for v in everything.values()))
    hits = torch.cat([b[1].student.logits.argmax(1) == b[1].targets for b in batches]).double()
    assert found["train/top1"] == pytest.approx(100 * hits.mean().item())
    temperature = torch.cat([b[0].temperatures.student for b in batches]).double()
    assert found["temperature/student_mean"] == pytest.approx(temperature.mean().item())
    assert found["temperature/student_std"] == pytest.approx(temperature.std(correction=0).item())
    for q in (5, 95):
        expected = temperature.flatten().quantile(q / 100).item()
        assert found[f"temperature/student_p{q}"] == pytest.approx(expected, rel=1e-12)
    assert found["temperature/student_min"] == pytest.approx(temperature.min().item())
    assert found["temperature/teacher_max"] == pytest.approx(temperature.max().item() / 2)


def test_train_meter_continues_from_its_state():
    whole, first, second = TrainMeter(), TrainMeter(), TrainMeter()
    whole.update(*batch(0, 4)), first.update(*batch(0, 4))
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    whole.update(*batch(1, 4)), second.update(*batch(1, 4))
    assert whole.compute() == second.compute()
    second.reset()
    assert second.compute() == {}
