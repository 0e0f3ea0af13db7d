import pytest
from test_record import make_record

from kdbench.errors import ConfigError
from kdbench.results.select import look_up, parse_conditions, require_known

RECORD = make_record(
    dataset="cifar100",
    temperature="cosine",
    seed=4,
    config={"temperature": {"start": 8.0, "until": 1}, "optim": {"lr": 0.05, "nesterov": True}},
    environment={"git": {"commit": "abc"}},
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 4),
        ("temperature", "cosine"),
        ("temperature.start", 8.0),
        ("optim.lr", 0.05),
        ("test.agreement", 70.0),
        ("convergence.epochs_to.50", 2),
        ("environment.git.commit", "abc"),
        ("temperature.tau", None),
        ("nothing", None),
        ("nothing.at.all", None),
    ],
)
def test_values_are_found_in_record_and_config(name, value):
    assert look_up(RECORD, name) == value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("dataset=cifar100", True),
        ("dataset=mnist5k,cifar100", True),
        ("dataset != mnist5k", True),
        ("dataset!=mnist5k,cifar100", False),
        ("seed<5", True),
        ("seed>=5", False),
        ("seed=4.0", True),
        ("seed=four", False),
        ("temperature.start=8", True),
        ("temperature.tau!=4", True),
        ("temperature.tau<4", False),
        ("optim.nesterov=true", True),
        ("reason=none", True),
    ],
)
def test_conditions(text, holds):
    (condition,) = parse_conditions([text])
    assert condition.holds(RECORD) == holds


@pytest.mark.parametrize("text", ["dataset", "", "=3", "seed<", "seed<many", "a b=3"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ConfigError, match="--where"):
        parse_conditions([text])


def test_a_condition_on_what_no_run_has_is_refused():
    with pytest.raises(ConfigError, match="'datset'"):
        require_known(parse_conditions(["seed=4", "datset=cifar100"]), [RECORD])
    require_known(parse_conditions(["datset=cifar100"]), [])
