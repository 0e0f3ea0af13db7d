import pytest

from kdbench.errors import ConfigError
from kdbench.records.select import look_up, may_hold, parse_conditions, require_known
from tests.records.test_record import make_record

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


BEGUN = """
seed: 3
method: kd
pair: ${teacher.model.arch}_${student.arch}
dataset: {name: cifar100}
teacher: {model: {arch: resnet56}}
student: {arch: resnet20}
objective: {name: kd}
temperature: {_target_: kdbench.temperature.constant.Constant, tau: 4.0}
optim: {lr: "${..lr}"}
run: {epochs: 240, protocol: paper}
"""


@pytest.fixture
def begun(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(BEGUN)
    return tmp_path


@pytest.mark.parametrize(
    ("condition", "may"),
    [
        ("seed<5", True),
        ("seed=1,7", False),
        ("dataset=cifar100", True),
        ("dataset=cifar10", False),
        ("temperature=constant", True),
        ("temperature=cosine", False),
        ("temperature.tau>4", False),
        ("pair=resnet56_resnet20", True),
        ("pair=wrn_40_2_wrn_16_2", False),
        ("objective=kd", True),
        ("student!=resnet20", False),
        ("epochs=240", True),
        ("protocol=strict", False),
        ("optim.lr=0.1", True),  # an interpolation: nobody knows, and nothing is hidden
        ("teacher_top1>70", True),  # not known before the end
    ],
)
def test_a_run_without_a_record_is_judged_by_its_config(begun, condition, may):
    assert may_hold(parse_conditions([condition]), begun) == may


@pytest.mark.parametrize(
    "config", [b"{", b"a: &a [1]\nseed: *a", b"- 1", b"\xff", b"x: " + b"[" * 5000, None]
)
def test_a_config_that_is_none_hides_nothing(begun, config):
    path = begun / ".hydra" / "config.yaml"
    path.unlink()
    if config is not None:
        path.write_bytes(config)
    assert may_hold(parse_conditions(["seed<1"]), begun)
