"""Groups the runs of a sweep."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from kdbench.config.identity import CohortKey
from kdbench.launch.group import Group, Member


def form_groups(
    members: Iterable[tuple[Member, CohortKey]], slots: int, max_learners: int | None
) -> list[Group]:
    """Groups runs that one process trains together.

    Runs without a teacher join a group with the same data. If slots would stay idle, large groups
    are split: the teacher then runs more than once, but the sweep ends earlier.

    Args:
        members: the runs and their cohort keys.
        slots: groups that can run at a time, >= 1.
        max_learners: largest group; None for no limit.

    Returns:
        The groups, ordered so that different teachers come first: groups with the same teacher may
        have to wait for its training.
    """
    pieces = [
        (key, piece)
        for key, group in _by_cohort(members).items()
        for piece in _divide(group, -(-len(group) // (max_learners or len(group))))
    ]
    while len(pieces) < slots:
        position = max(range(len(pieces)), key=lambda k: len(pieces[k][1]), default=None)
        if position is None or len(pieces[position][1]) == 1:
            break
        key, largest = pieces[position]
        pieces[position : position + 1] = [(key, half) for half in _divide(largest, 2)]
    return [Group(piece) for _, piece in _interleave(pieces)]


def _by_cohort(members: Iterable[tuple[Member, CohortKey]]) -> dict[CohortKey, list[Member]]:
    groups: dict[CohortKey, list[Member]] = defaultdict(list)
    for member, key in members:
        groups[key].append(member)
    for alone in [key for key in groups if key.teacher is None]:
        hosts = [key for key in groups if key.shared == alone.shared and key.teacher is not None]
        if hosts:
            host = max(hosts, key=lambda key: len(groups[key]))
            groups[host] = groups.pop(alone) + groups[host]
    return groups


def _divide(members: Sequence[Member], parts: int) -> list[Sequence[Member]]:
    """Splits into parts whose sizes differ by at most one."""
    size, longer = divmod(len(members), parts)
    ends = [(k + 1) * size + min(k + 1, longer) for k in range(parts)]
    return [members[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _interleave(
    pieces: Sequence[tuple[CohortKey, Sequence[Member]]],
) -> list[tuple[CohortKey, Sequence[Member]]]:
    """One group of every teacher, then a second one, and so on; the largest first."""
    turns: dict[str | None, int] = defaultdict(int)
    ordered = []
    for key, piece in sorted(pieces, key=lambda item: -len(item[1])):
        ordered.append((turns[key.teacher], key, piece))
        turns[key.teacher] += 1
    ordered.sort(key=lambda item: item[0])
    return [(key, piece) for _, key, piece in ordered]
