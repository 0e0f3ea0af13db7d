"""What is allowed and probably not meant: warnings for the log and the record of a run."""

from omegaconf import DictConfig

from kdbench.data.base import DataModule


def find_cautions(cfg: DictConfig, data: DataModule, teacher_top1: float | None) -> list[str]:
    """One sentence for each thing about a run that people should hear of before it trains.

    Args:
        cfg: of the run.
        data: that it is trained on.
        teacher_top1: measured test accuracy of its teacher, percent; None without one.
    """
    return _small_data(cfg, data) + _weak("teacher", teacher_top1, data.num_classes)


def find_doubts(student_top1: float | None, num_classes: int) -> list[str]:
    """The same for what has come of a run: its final test accuracy in percent, if it has one."""
    return _weak("student", student_top1, num_classes)


def is_near_chance(top1: float, num_classes: int) -> bool:
    """Whether an accuracy in percent says that nothing was learnt.

    Half of chance above it counts as chance, with few classes a tenth of what is left to learn.
    """
    chance = 100 / num_classes
    return top1 < chance + min(0.5 * chance, 0.1 * (100 - chance))


def _small_data(cfg: DictConfig, data: DataModule) -> list[str]:
    size = cfg.dataset.batch_size
    if size > data.num_train:
        return [
            f"dataset.batch_size={size} is larger than the data: every step sees all "
            f"{data.num_train} training images"
        ]
    if data.steps_per_epoch == 1:
        return [
            f"an epoch is one step: dataset.batch_size={size}, {data.num_train} training images"
        ]
    return []


def _weak(who: str, top1: float | None, num_classes: int) -> list[str]:
    if top1 is None or not is_near_chance(top1, num_classes):
        return []
    return [
        f"the {who} is at chance level: {top1:.2f} % on the test set, chance is "
        f"{100 / num_classes:.2f} %"
    ]
