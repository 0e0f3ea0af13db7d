import pytest
from omegaconf import OmegaConf

from kdbench.config.compose import compose_config
from kdbench.config.identity import run_key
from kdbench.config.names import is_name
from kdbench.errors import ConfigError, known_error


@pytest.mark.parametrize("name", ["kd", "timm:vit_tiny.augreg_in21k", "größer", "a b", "x" * 100])
def test_names(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".hidden", "", "a\nb", "a\0b", "x" * 101, 3, ["a"]]
)
def test_what_is_no_name(name):
    assert not is_name(name)


@pytest.mark.parametrize(
    "key", ["dataset.name", "method", "pair", "table", "student.arch", "objective.name"]
)
def test_no_name_leads_out_of_the_outputs(tmp_path, key):
    cfg = compose_config([f"paths.outputs={tmp_path}/out"])
    OmegaConf.update(cfg, key, "../../../X")
    with pytest.raises(ConfigError, match=rf"{key}='\.\./\.\./\.\./X'.*not a name"):
        run_key(cfg)


def test_not_even_a_folder_is_made(kdbench, tmp_path):
    for arguments in (["method=scratch"], ["-m", "hydra/launcher=basic", "method=scratch"]):
        code, output = kdbench(*arguments, "dataset.name=../../../X")
        assert code in (2, 9), output
        assert "not a name" in output
        assert "Traceback" not in output
        assert not list(tmp_path.rglob("X"))


def test_the_folder_of_a_run_is_not_named_before_its_names_are_looked_at(tmp_path):
    from kdbench.config.compose import compose, hydra_context

    with hydra_context() as loader:
        cfg = compose(loader, ["dataset.name=../../../X"], with_hydra=True)
    with pytest.raises(Exception, match="not a name") as caught:
        _ = cfg.hydra.run.dir
    assert isinstance(known_error(caught.value), ConfigError)
