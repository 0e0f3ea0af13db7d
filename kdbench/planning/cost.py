"""What runs cost: multiply-adds from their configs, hours from the speeds of a machine.

A backward pass counts as two forward passes. What does not count: decoding and augmenting images,
losses, plugins, checkpoints, and what a memo of the teacher's answers saves.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench.config.build import build
from kdbench.config.identity import (
    needs_teacher,
    resolve_config,
    stable_config,
    teacher_config,
    trains_teacher,
    views_of,
)
from kdbench.errors import ConfigError

if TYPE_CHECKING:  # it imports torch
    from kdbench.planning.speed import Speed

PlainConfig = dict[str, Any]  # resolved to plain containers
SpeedOf = Callable[[Mapping[str, Any]], "Speed"]  # of the network that a node describes


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        macs: multiply-adds of its own: student, and teacher as if it answered this run alone.
        student_hours: of training and evaluating the student.
        teacher_hours: of the teacher's answers, asked by this run alone.
        shared_hours: its part of the teacher's answers to all runs of its cohort.
    """

    macs: int
    student_hours: float
    teacher_hours: float
    shared_hours: float

    @property
    def alone(self) -> float:
        """Hours as a single run."""
        return self.student_hours + self.teacher_hours

    @property
    def together(self) -> float:
        """Hours as one run of its cohort."""
        return self.student_hours + self.shared_hours


def price(configs: Sequence[PlainConfig], speed_of: SpeedOf) -> list[Cost]:
    """What each run costs, alone and trained in one cohort with those among them that can be."""
    alone = [_price_alone(config, speed_of) for config in configs]
    asked: dict[str, list[float]] = defaultdict(list)
    for config, cost in zip(configs, alone, strict=True):
        asked[_audience(config)].append(cost.teacher_hours)
    costs = []
    for config, cost in zip(configs, alone, strict=True):
        hours = asked[_audience(config)]  # a run that needs two views pays for its second one
        part = max(hours) / sum(hours) if cost.teacher_hours else 0.0
        shared = part * cost.teacher_hours
        costs.append(Cost(cost.macs, cost.student_hours, cost.teacher_hours, shared))
    return costs


def find_stages(configs: Sequence[PlainConfig]) -> list[tuple[PlainConfig, PlainConfig]]:
    """The trainings of all teachers that are trained here, each once, in the order of need.

    Returns:
        The resolved config of each training, and that of a run that needs it. A teacher of a
        teacher comes before it.
    """
    found: dict[str, tuple[PlainConfig, PlainConfig]] = {}
    needed = {_audience(config): config for config in configs if trains_teacher(config)}
    for config in needed.values():  # few, and the rest takes a while
        for training, student in reversed(list(_chain(config))):
            audience = _audience(training) if needs_teacher(training) else ""
            found.setdefault(_text(stable_config(training)) + audience, (training, student))
    return list(found.values())


def _chain(config: PlainConfig) -> Iterator[tuple[PlainConfig, PlainConfig]]:
    while trains_teacher(config):
        training = resolve_config(teacher_config(config))
        yield training, config
        config = training


def _price_alone(config: PlainConfig, speed_of: SpeedOf) -> Cost:
    trained, evaluated = _images(config)
    views, epochs = 1 + len(views_of(config["objective"])), config["run"]["epochs"]
    student = speed_of(config["student"])
    macs = epochs * student.macs * (3 * views * trained + evaluated)
    student_hours = macs / student.train / 3600
    if not needs_teacher(config):
        return Cost(macs, student_hours, 0.0, 0.0)
    teacher = speed_of(config["teacher"]["model"])
    answers = epochs * teacher.macs * views * trained
    return Cost(macs + answers, student_hours, answers / teacher.ask / 3600, 0.0)


def _images(config: PlainConfig) -> tuple[int, int]:
    """Images of an epoch: to train on, and to evaluate on after it."""
    dataset = config["dataset"]
    known = getattr(build(dataset), "count_images", lambda: None)()
    if known is None:
        raise ConfigError(
            f"how many images {dataset['name']} has is not known; its class says it with "
            f"count_images()"
        )
    train, test = known
    if config["run"]["protocol"] == "paper":
        return train, test
    held_out = round(train * dataset["val_fraction"])
    return train - held_out, held_out


def _audience(config: PlainConfig) -> str:
    """Runs with one of these ask one teacher about the same batches."""
    return _text({name: config[name] for name in ("dataset", "run", "teacher")})


def _text(config: PlainConfig) -> str:
    return json.dumps(config, sort_keys=True)
