"""Warnings about runs that are valid but probably unintended, for the log and the record."""

from omegaconf import DictConfig

from kdbench.data.base import DataModule


def check_setup(cfg: DictConfig, data: DataModule, teacher_top1: float | None) -> list[str]:
    """Warnings about a run before it trains, one sentence each.

    Args:
        cfg: config of the run.
        data: its dataset.
        teacher_top1: measured test accuracy of the teacher in percent; None without a teacher.
    """
    return _small_data(cfg, data) + _weak("teacher", teacher_top1, data.num_classes)


def check_result(student_top1: float | None, num_classes: int) -> list[str]:
    """Warnings about a finished run, from its final test accuracy in percent, if any."""
    return _weak("student", student_top1, num_classes)


def is_near_chance(top1: float, num_classes: int) -> bool:
    """Whether an accuracy in percent is about that of guessing.

    The margin is half of chance, but at most a tenth of the distance from chance to 100 %.
    """
    chance = 100 / num_classes
    return top1 < chance + min(0.5 * chance, 0.1 * (100 - chance))


def _small_data(cfg: DictConfig, data: DataModule) -> list[str]:
    size = cfg.dataset.batch_size
    if size > data.num_train:
        return [
            f"dataset.batch_size={size} is larger than the dataset: every step sees all "
            f"{data.num_train} training images"
        ]
    if data.steps_per_epoch == 1:
        return [
            f"an epoch is a single step: dataset.batch_size={size}, {data.num_train} training "
            f"images"
        ]
    return []


def _weak(who: str, top1: float | None, num_classes: int) -> list[str]:
    if top1 is None or not is_near_chance(top1, num_classes):
        return []
    return [
        f"the {who} is at chance level: {top1:.2f} % on the test set, chance is "
        f"{100 / num_classes:.2f} %"
    ]
