"""Every table of conf/table: its cells compose and pass the checks, and have published numbers.

A method and a pair are right or wrong by themselves, and each is checked with the others of its
kind (test_conf, test_published_settings); so are the cells with settings of their own. Here the
quick tests check one more cell of each table, and the long ones check them all.
"""

from itertools import product

import pytest
import yaml

from kdbench.config.check import find_problems
from kdbench.config.compose import CONF, compose_config, restore_config
from kdbench.planning.plan import plan_table
from kdbench.report.published import find

TABLES = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "table").glob("*.yaml")}
OF_PAPERS = sorted(set(TABLES) - {"demo", "temperature_survey"})
# Rows of which no number could be read, whatever the column.
NEVER_READ = {
    "atkd_cifar100": {"atkd", "dkd_atkd"},
    "dtkd_cifar100": {"dtkd", "dkd_dtkd"},
    "imagenet": {"normkd", "dkd_normkd"},
    "imagenet_resnet18": {"rlkd", "dkd_rlkd"},
    "mlkd_cifar100": {"mlkd_atkd"},
}
# Single cells: Sun et al. have a config for it, and no number.
NOT_PRINTED = {("mlkd_logit_std", ("cifar100", "resnet32x4", "shufflenetv1"))}


def swept(table):
    """Group -> its options, for the groups of which a table lists them."""
    params = TABLES[table]["hydra"]["sweeper"]["params"]
    lists = {group: text for group, text in params.items() if "(" not in text and group != "seed"}
    return {group: [name.strip() for name in text.split(",")] for group, text in lists.items()}


def choices(folder, name):
    """What a file of conf/ chooses of other groups."""
    content = yaml.safe_load((CONF / folder / f"{name}.yaml").read_text())
    entries = {k: v for entry in content.get("defaults", []) for k, v in entry.items()}
    return {key.removeprefix("override /"): option for key, option in entries.items()}


def columns(table):
    """Dataset, teacher and student of every column."""
    own, lists = choices("table", table), swept(table)
    pairs = lists.get("pair", [own.get("pair")])
    for dataset, pair, teacher in product(
        lists.get("dataset", [None]), pairs, lists.get("teacher", [None])
    ):
        networks = choices("pair", pair) if pair else {"teacher": teacher, **own}
        dataset = dataset or own.get("dataset") or networks["dataset"]
        yield dataset, *(networks[role].split("/")[-1] for role in ("teacher", "student"))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_table_names_itself_and_its_last_cell_passes_the_checks(table):
    last = [f"{group}={options[-1]}" for group, options in swept(table).items()]
    cfg = compose_config([f"table={table}", *last, "seed=0"])
    assert cfg.table == table
    assert find_problems(cfg) == []


@pytest.mark.parametrize("table", sorted(TABLES))
def test_what_a_table_lists_is_there_once(table):
    for group, options in swept(table).items():
        assert len(set(options)) == len(options)
        assert {f"{option}.yaml" for option in options} <= {
            path.name for path in (CONF / group).glob("*.yaml")
        }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_cell_passes_the_checks(table, tmp_path):
    plan = plan_table(table, ["seed=0", f"paths.data={tmp_path}", f"paths.outputs={tmp_path}"])
    for run in plan.distinct():
        cfg = restore_config(run.config)
        cfg.student.arch = cfg.teacher.model.arch = "resnet8"  # others are built in test_conf
        assert find_problems(cfg) == [], run.cell


@pytest.mark.parametrize("table", OF_PAPERS)
def test_every_cell_has_a_published_number_or_is_known_to_have_none(table):
    methods = swept(table)["method"]
    missing = [
        (method, place)
        for place in columns(table)
        for method in methods
        if find(*place, method) is None
    ]
    assert missing == [
        (method, place)
        for place in columns(table)
        for method in methods
        if method in NEVER_READ.get(table, ()) or (method, place) in NOT_PRINTED
    ]


@pytest.mark.parametrize("table", OF_PAPERS)
def test_rows_stand_beside_the_student_alone_and_classical_distillation(table):
    assert swept(table)["method"][:2] == ["scratch", "kd"]
