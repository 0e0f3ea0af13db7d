"""The cost of runs: multiply-adds from their configs, hours from the speed of the machine.

A backward pass counts as two forward passes. Not counted: decoding and augmenting images, losses,
plugins, checkpoints, and the savings of cached teacher outputs (``teacher.memo``).
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
    """The cost of a run.

    Attributes:
        macs: multiply-adds of the run alone, student and teacher.
        student_hours: training and evaluating the student.
        teacher_hours: the teacher's forward passes, for this run alone.
        shared_hours: its share of the teacher's forward passes for the whole cohort.
    """

    macs: int
    student_hours: float
    teacher_hours: float
    shared_hours: float

    @property
    def alone(self) -> float:
        """Hours if trained alone."""
        return self.student_hours + self.teacher_hours

    @property
    def together(self) -> float:
        """Hours if trained in its cohort."""
        return self.student_hours + self.shared_hours


def price(configs: Sequence[PlainConfig], speed_of: SpeedOf) -> list[Cost]:
    """The cost of each run, alone and in a cohort with those of the runs that can share one."""
    alone = [_price_alone(config, speed_of) for config in configs]
    teacher_hours: dict[str, list[float]] = defaultdict(list)  # by cohort
    for config, cost in zip(configs, alone, strict=True):
        teacher_hours[_teacher_use(config)].append(cost.teacher_hours)
    costs = []
    for config, cost in zip(configs, alone, strict=True):
        hours = teacher_hours[_teacher_use(config)]  # a second view is paid for by its users
        part = max(hours) / sum(hours) if cost.teacher_hours else 0.0
        shared = part * cost.teacher_hours
        costs.append(Cost(cost.macs, cost.student_hours, cost.teacher_hours, shared))
    return costs


def find_stages(configs: Sequence[PlainConfig]) -> list[tuple[PlainConfig, PlainConfig]]:
    """The runs that train teachers, each once, in the order in which they are needed.

    Returns:
        The resolved config of each of them, and of a run that needs it. The teacher of a teacher
        comes first.
    """
    found: dict[str, tuple[PlainConfig, PlainConfig]] = {}
    needed = {_teacher_use(config): config for config in configs if trains_teacher(config)}
    for config in needed.values():  # deduplicated first: composing is slow
        for training, student in reversed(list(_chain(config))):
            use = _teacher_use(training) if needs_teacher(training) else ""
            found.setdefault(_text(stable_config(training)) + use, (training, student))
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
    forward = epochs * teacher.macs * views * trained
    return Cost(macs + forward, student_hours, forward / teacher.forward / 3600, 0.0)


def _images(config: PlainConfig) -> tuple[int, int]:
    """Images of an epoch: trained on, and evaluated on after it."""
    dataset = config["dataset"]
    known = getattr(build(dataset), "count_images", lambda: None)()
    if known is None:
        raise ConfigError(
            f"the number of images in {dataset['name']} is unknown; implement count_images() "
            f"in its class"
        )
    train, test = known
    if config["run"]["protocol"] == "paper":
        return train, test
    held_out = round(train * dataset["val_fraction"])
    return train - held_out, held_out


def _teacher_use(config: PlainConfig) -> str:
    """Equal for runs that use the same teacher on the same batches."""
    return _text({name: config[name] for name in ("dataset", "run", "teacher")})


def _text(config: PlainConfig) -> str:
    return json.dumps(config, sort_keys=True)
