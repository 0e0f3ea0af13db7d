"""Convergence speed of a run: papers claim it, so it is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

LEVELS = (10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 97, 99)  # percent


def epochs_to(accuracies: Sequence[float], level: float) -> int | None:
    """Epochs until the accuracy first reaches a level; None if it never does.

    Args:
        accuracies: after each epoch, percent.
        level: percent.
    """
    return next((done for done, top1 in enumerate(accuracies, 1) if top1 >= level), None)


def summarise_convergence(rows: Sequence[Mapping[str, float]], key: str) -> dict[str, Any]:
    """Area under the learning curve and epochs to fixed levels.

    Args:
        rows: one per epoch.
        key: accuracy in percent that the levels refer to, such as "test/top1".

    Returns:
        "aulc": mean accuracy over the epochs, percent; "epochs_to": level -> epochs, for the
        levels reached.
    """
    accuracies = [row[key] for row in rows]
    if not accuracies:
        return {"aulc": None, "epochs_to": {}}
    reached = {str(level): epochs_to(accuracies, level) for level in LEVELS}
    return {
        "aulc": sum(accuracies) / len(accuracies),
        "epochs_to": {level: epochs for level, epochs in reached.items() if epochs is not None},
    }
