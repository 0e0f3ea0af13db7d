"""Hydra's own part of a config calls nothing that is not on the list."""

from pathlib import Path

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from kdbench.config.compose import ConfigSource, compose, hydra_context
from kdbench.config.nodes import require_allowed_nodes
from kdbench.config.overrides import check_overrides
from kdbench.config.targets import ALLOW_VARIABLE
from kdbench.errors import ConfigError


def compose_with_hydra(*overrides):
    with hydra_context() as loader:
        return compose(loader, overrides, with_hydra=True)


HOSTILE = [
    "+hydra.callbacks.x={_target_: shutil.copy, src: SOURCE, dst: MARKER}",
    "+hydra.callbacks.x={_target_: builtins.open, file: MARKER, mode: w}",
    "+hydra.callbacks.x={_target_: hydra.experimental.callbacks.PickleJobInfoCallback}",
    "+hydra.callbacks.x={deep: [{_target_: builtins.open, file: MARKER, mode: w}]}",
    "+hydra.callbacks.x={_target_: '${method}'}",
    "+hydra.launcher.more={_target_: builtins.open, file: MARKER, mode: w}",
    "hydra.launcher._target_=hydra_plugins.elsewhere.Launcher",
    "hydra.launcher.executor._target_=builtins.open",
    "hydra.job_logging.handlers.file={(): builtins.open, file: MARKER, mode: w}",
    "hydra.job_logging.handlers.file.class=logging.config.shutil.copy",
    "hydra.job_logging.handlers.file.class=logging.handlers.SocketHandler",
    "+hydra.job_logging.filters={x: {(): os.system, command: touch MARKER}}",
    "hydra.job_logging.formatters.short={(): shutil.copy, src: SOURCE, dst: MARKER}",
    "hydra.job_logging.handlers.console.stream=ext://antigravity.x",
    "hydra.job_logging.handlers.console.stream=cfg://root",
    "+hydra.job_logging.handlers.file={.: {terminator: x}}",
    "+hydra.hydra_logging={handlers: {x: {(): builtins.open, file: MARKER, mode: w}}}",
    "+hydra.job.env_set.KDBENCH_ALLOW_TARGETS=os",
    "+hydra.job.env_set.LD_PRELOAD=/tmp/x.so",
    "+hydra.job.env_set.PYTHONPATH=/tmp",
]


@pytest.mark.parametrize("override", HOSTILE)
def test_what_hydra_would_call_is_refused(override, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "source").write_text("x")
    text = override.replace("MARKER", str(marker)).replace("SOURCE", str(tmp_path / "source"))
    key, _, value = text.partition("=")
    path = tmp_path / "conf" / "debug" / "evil.yaml"  # as somebody else's file says it
    path.parent.mkdir(parents=True)
    node = yaml.safe_load(value) if value.startswith("{") else value
    for part in reversed(key.lstrip("+").split(".")):
        node = {part: node}
    path.write_text("# @package _global_\n" + yaml.safe_dump(node))
    with pytest.raises(ConfigError, match=r"is not allowed|cannot (be )?set"):
        require_allowed_nodes(
            compose_with_hydra(f"hydra.searchpath=[file://{path.parents[1]}]", "debug=evil")
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    "node",
    [
        {"sweeper": {"sampler": {"_target_": "builtins.open"}}},
        {"sweeper": {"custom_search_space": "os.system"}},
        {"launcher": {"_target_": ["os.system"]}},
        {"elsewhere": [{"deep": {"_target_": "os.system"}}]},
    ],
)
def test_every_section_is_looked_at(node):
    with pytest.raises(ConfigError, match="is not allowed"):
        require_allowed_nodes(OmegaConf.create({"hydra": node}))


@pytest.mark.parametrize("sampler", ["TPE", "Random", "CmaEs"])
def test_samplers_are_allowed(sampler):
    node = {"sampler": {"_target_": f"optuna.samplers.{sampler}Sampler"}}
    require_allowed_nodes(OmegaConf.create({"hydra": {"sweeper": node}}))


@pytest.mark.parametrize(
    "launcher",
    ["basic", "cohort", "cohort_slurm", "cohort_ray", "joblib", "submitit_local", "submitit_slurm"],
)
def test_launchers_are_allowed(launcher):
    require_allowed_nodes(compose_with_hydra(f"hydra/launcher={launcher}"))


@pytest.mark.parametrize("logging", ["default", "none", "stdout", "disabled", "kdbench"])
def test_hydras_logging_is_allowed(logging):
    require_allowed_nodes(compose_with_hydra(f"hydra/job_logging={logging}"))


def test_the_user_allows_a_callback_by_the_environment(monkeypatch):
    target = "hydra.experimental.callbacks.PickleJobInfoCallback"
    override = f"+hydra.callbacks.x._target_={target}"
    with pytest.raises(ConfigError):
        require_allowed_nodes(compose_with_hydra(override))
    monkeypatch.setenv(ALLOW_VARIABLE, target)
    require_allowed_nodes(compose_with_hydra(override))


def test_each_composition_is_guarded_and_only_once():
    import kdbench.cli.train  # noqa: F401  it guards the process that imports it

    assert hasattr(ConfigLoaderImpl.load_configuration, "__wrapped__")
    assert not hasattr(ConfigLoaderImpl.load_configuration.__wrapped__, "__wrapped__")


@pytest.fixture
def foreign(tmp_path):
    """A folder of configs of somebody else."""

    def write(group, name, text):
        path = tmp_path / "foreign" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path.parents[1]

    return write


CALLBACK = """# @package _global_
hydra:
  callbacks:
    x: {_target_: builtins.open, file: MARKER, mode: w}
"""


@pytest.mark.parametrize("sweep", [[], ["-m", "hydra/launcher=basic"]])
def test_a_foreign_folder_of_configs_runs_nothing(kdbench, foreign, tmp_path, sweep):
    marker = tmp_path / "marker"
    folder = foreign("speed", "evil", CALLBACK.replace("MARKER", str(marker)))
    swept = "speed=full,evil" if sweep else "speed=evil"
    code, output = kdbench(*sweep, "--config-dir", str(folder), swept, "method=scratch")
    assert code in (2, 9), output
    assert "hydra.callbacks.x._target_='builtins.open' is not allowed" in output
    assert "Traceback" not in output
    assert not marker.exists()


@pytest.mark.parametrize("where", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_options_of_another_folder_are_used_and_checked(kdbench, foreign, tmp_path, where):
    folder = foreign(
        "temperature", "mine", "_target_: kdbench.temperature.constant.Constant\ntau: 2.5\n"
    )
    place = where.format(folder)
    mistakes = ["temperature=mine", "temperature.tua=3", "student=resnet8x5"]
    code, output = kdbench(place, *mistakes)
    assert code == 2, output
    assert "temperature.tua is not a key; did you mean temperature.tau" in output
    assert "student=resnet8x5 does not exist" in output
    assert "Traceback" not in output
    code, output = kdbench("temperature=mine", "method=scratch", place)
    assert code == 0, output


@pytest.mark.parametrize(
    "source",
    [ConfigSource(folder=Path("/no/where")), ConfigSource(searchpath=("file:///no/where",))],
)
def test_a_folder_that_is_not_there_is_reported(source):
    with pytest.raises(ConfigError, match=r"/no/where.*no such folder"):
        check_overrides([], source=source)


def test_pickles_are_not_opened(monkeypatch, capsys):
    from kdbench.cli.train import main

    monkeypatch.setattr("sys.argv", ["kdbench-train", "--experimental-rerun=x.pickle"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "kdbench-rerun" in capsys.readouterr().err
