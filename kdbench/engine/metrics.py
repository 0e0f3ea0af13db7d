"""Computes the metrics. For labels, units and digits see ``records/metric.py``.

During training (``TrainMeter``, sums on the device, read once per epoch):
    train/loss, train/<term>   mean loss, and mean of each weighted term
    train/top1                 accuracy on the augmented training batches, percent
    temperature/teacher_*      mean, min, max, std and the 5 % and 95 % quantiles (p5, p95) over all
                               samples of the epoch
    temperature/student_*      the same for the student

For single batches (``TrainMeter.point``, read every few steps if the tracker wants them):
    batch/loss, batch/<term>   mean loss, and mean of each weighted term
    batch/temperature_*        mean, min and max of teacher's and student's temperature

After each epoch (``evaluate_logits``, on test or validation data):
    top1, top5                 accuracy, percent
    nll                        negative log-likelihood, nats
    ece                        expected calibration error, 15 bins, percent
    agreement                  samples on which student and teacher predict the same class, percent
    teacher_kl                 KL(teacher || student) at temperature 1, nats
    logit_correlation          mean over samples of the Pearson correlation of the two logit rows
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.objective.objective import LossTerms
from kdbench.outputs import Outputs

ECE_BINS = 15


class TrainMeter:
    """Sums over an epoch, kept on the device; nothing synchronizes before ``compute``."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}
        self._temperatures: dict[str, list[Tensor]] = {}  # [B] each; quantiles need all of them
        self._losses: dict[str, Tensor] = {}  # last batch, [B] each

    @torch.no_grad()
    def update(self, terms: LossTerms, outputs: Outputs) -> None:
        """Adds one batch.

        Args:
            terms: losses and temperatures.
            outputs: of the weak view.
        """
        student_logits, targets = outputs.student.logits, outputs.targets
        count = torch.full((), len(targets), device=targets.device)
        self._add("count", count)
        self._add("correct", (student_logits.argmax(dim=1) == targets).sum())
        self._losses = {name: loss.detach() for name, loss in terms.terms.items()}
        for name, loss in terms.terms.items():
            self._add(f"loss/{name}", loss.detach().sum())
        if terms.temperatures is not None:
            self._add_temperature("teacher", terms.temperatures.teacher)
            self._add_temperature("student", terms.temperatures.student)

    def compute(self) -> dict[str, float]:
        """The metrics over all samples since ``reset``."""
        sums = {name: value.item() for name, value in self._values.items()}
        if not sums:
            return {}
        count = sums["count"]
        losses = {k.removeprefix("loss/"): v / count for k, v in sums.items() if "loss/" in k}
        metrics = {"train/loss": math.fsum(losses.values())}
        metrics |= {f"train/{name}": loss for name, loss in losses.items()}
        metrics["train/top1"] = 100 * sums["correct"] / count
        for who in ("teacher", "student"):
            if f"{who}/sum" in sums:
                metrics |= _temperature_metrics(who, sums, count)
                metrics |= _quantiles(who, torch.cat(self._temperatures[who]))
        return metrics

    def point(self) -> dict[str, float]:
        """The metrics of the last batch; synchronizes once."""
        found = {f"batch/{name}": loss.double().mean() for name, loss in self._losses.items()}
        found = {"batch/loss": torch.stack(list(found.values())).sum(), **found}
        for who, temperatures in self._temperatures.items():
            last = temperatures[-1].double()
            low, high = last.aminmax()
            found[f"batch/temperature_{who}_mean"] = last.mean()
            found |= {
                f"batch/temperature_{who}_min": low,
                f"batch/temperature_{who}_max": high,
            }
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))

    def loss(self) -> float:
        """Mean loss so far; synchronizes."""
        if not self._values:
            return math.nan
        losses = sum(value for name, value in self._values.items() if "loss/" in name)
        return float(losses / self._values["count"])

    def reset(self) -> None:
        """Clears all sums."""
        self._values, self._temperatures = {}, {}

    def state_dict(self) -> dict[str, Tensor]:
        """The sums and all temperatures, for checkpoints within an epoch."""
        kept = {f"{who}/all": torch.cat(found) for who, found in self._temperatures.items()}
        return {**self._values, **kept}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restores a saved state."""
        values = {name: value.to(device) for name, value in state.items()}
        self._temperatures = {
            who: [values.pop(f"{who}/all")]
            for who in ("teacher", "student")
            if f"{who}/all" in values
        }
        self._values = values

    def _add(self, name: str, value: Tensor) -> None:
        wide = value.double()
        self._values[name] = self._values[name] + wide if name in self._values else wide

    def _add_temperature(self, who: str, temperature: Tensor) -> None:
        self._temperatures.setdefault(who, []).append(temperature.detach().flatten().clone())
        wide = temperature.detach().double()
        self._add(f"{who}/sum", wide.sum())
        self._add(f"{who}/sum_of_squares", wide.square().sum())
        low, high = wide.aminmax()
        known = self._values
        known[f"{who}/min"] = torch.minimum(known.get(f"{who}/min", low), low)
        known[f"{who}/max"] = torch.maximum(known.get(f"{who}/max", high), high)


def _temperature_metrics(who: str, sums: dict[str, float], count: float) -> dict[str, float]:
    mean = sums[f"{who}/sum"] / count
    variance = max(sums[f"{who}/sum_of_squares"] / count - mean**2, 0.0)
    return {
        f"temperature/{who}_mean": mean,
        f"temperature/{who}_min": sums[f"{who}/min"],
        f"temperature/{who}_max": sums[f"{who}/max"],
        f"temperature/{who}_std": math.sqrt(variance),
    }


def _quantiles(who: str, temperatures: Tensor) -> dict[str, float]:
    # By sorting: torch.quantile is limited to 16 million values.
    ordered = temperatures.double().sort().values
    places = {f"temperature/{who}_p{q}": q / 100 * (len(ordered) - 1) for q in (5, 95)}
    return {
        name: ordered[int(place)].lerp(ordered[math.ceil(place)], place % 1).item()
        for name, place in places.items()
    }


@torch.no_grad()
def evaluate_logits(
    student_logits: Tensor, targets: Tensor, teacher_logits: Tensor | None
) -> dict[str, float]:
    """Metrics of a whole split.

    Args:
        student_logits: [N, K] float32.
        targets: [N] int64.
        teacher_logits: [N, K] float32 of the same samples; None skips the comparisons.
    """
    log_q = F.log_softmax(student_logits, dim=1)
    ranked = student_logits.topk(min(5, student_logits.shape[1]), dim=1).indices
    hits = ranked == targets[:, None]
    metrics = {
        "top1": _percent(hits[:, 0]),
        "top5": _percent(hits.any(dim=1)),
        "nll": F.nll_loss(log_q.double(), targets).item(),
        "ece": calibration_error(log_q, targets),
    }
    if teacher_logits is not None:
        metrics |= dict(_compare(student_logits, teacher_logits, log_q))
    return metrics


def calibration_error(log_probabilities: Tensor, targets: Tensor) -> float:
    """Expected calibration error in percent, with 15 equal-width confidence bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Args:
        log_probabilities: [N, K].
        targets: [N].
    """
    log_confidence, predicted = log_probabilities.max(dim=1)
    confidence = log_confidence.exp().double()
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    gap = (predicted == targets).double() - confidence
    # The |sum of (correct - confidence)| of a bin is its weight times its calibration gap.
    gaps = torch.zeros(ECE_BINS, dtype=torch.double, device=gap.device).index_add_(0, bins, gap)
    return 100 * gaps.abs().sum().item() / len(targets)


def _compare(
    student_logits: Tensor, teacher_logits: Tensor, log_q: Tensor
) -> Iterator[tuple[str, float]]:
    log_p = F.log_softmax(teacher_logits, dim=1)
    yield "agreement", _percent(student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1))
    yield "teacher_kl", (log_p.exp() * (log_p - log_q)).sum(dim=1).double().mean().item()
    student = F.normalize(student_logits - student_logits.mean(dim=1, keepdim=True), dim=1)
    teacher = F.normalize(teacher_logits - teacher_logits.mean(dim=1, keepdim=True), dim=1)
    yield "logit_correlation", (student * teacher).sum(dim=1).double().mean().item()


def _percent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()
