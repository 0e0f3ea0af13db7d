"""Which runs are trained together."""

from kdbench.config.identity import CohortKey
from kdbench.launch.group import Member
from kdbench.launch.plan import form_groups


def members(count, shared="data", teacher="T", name="run"):
    key = CohortKey(shared, teacher)
    return [(Member(f"{name}{k}", f"{name}{k}", "", {}), key) for k in range(count)]


def names(groups):
    return [[member.name for member in group.members] for group in groups]


def test_runs_with_one_teacher_and_the_same_data_are_one_group():
    found = form_groups(members(5), slots=1, max_learners=None)
    assert names(found) == [["run0", "run1", "run2", "run3", "run4"]]


def test_other_data_or_another_teacher_is_another_group():
    jobs = members(2) + members(1, shared="else", name="data") + members(3, teacher="U", name="t")
    found = form_groups(jobs, slots=1, max_learners=None)
    assert sorted(map(len, names(found))) == [1, 2, 3]


def test_runs_without_a_teacher_join_the_largest_group_with_their_data():
    jobs = members(2, teacher=None, name="alone") + members(1) + members(2, teacher="U", name="u")
    found = form_groups(jobs, slots=1, max_learners=None)
    assert names(found) == [["alone0", "alone1", "u0", "u1"], ["run0"]]
    lonely = form_groups(members(2, shared="x", teacher=None) + members(1), 1, None)
    assert sorted(map(len, names(lonely))) == [1, 2]


def test_a_group_has_at_most_max_learners_and_even_parts():
    found = form_groups(members(10), slots=1, max_learners=4)
    assert sorted(map(len, names(found))) == [3, 3, 4]
    assert [name for group in names(found) for name in group] == [f"run{k}" for k in range(10)]


def test_idle_slots_split_the_largest_groups():
    assert sorted(map(len, names(form_groups(members(8), 3, None)))) == [2, 2, 4]
    assert sorted(map(len, names(form_groups(members(3), 8, None)))) == [1, 1, 1]


def test_groups_that_would_wait_for_one_teacher_are_spread():
    jobs = [
        *members(3, shared="a", name="a"),
        *members(3, shared="b", name="b"),
        *members(1, teacher="U", name="u"),
    ]
    order = [group[0][0] for group in names(form_groups(jobs, 1, None))]
    assert order == ["a", "u", "b"]


def test_without_runs_there_are_no_groups():
    assert form_groups([], slots=4, max_learners=None) == []
