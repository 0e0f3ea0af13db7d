"""Composing inside of programs that use Hydra themselves."""

import subprocess
import sys
import threading

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.version import getbase

from kdbench.config.compose import compose_config

APPLICATION = """
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

ConfigStore.instance().store(name="schema", node={"mine": 1})

@hydra.main(version_base="1.3", config_path=None, config_name="schema")
def main(cfg):
    import kdbench
    name = HydraConfig.get().job.name
    objective = kdbench.load_objective("kd", ["temperature.tau=2"])
    assert objective.temperature.tau == 2
    assert HydraConfig.get().job.name == name
    assert list(ConfigStore.instance().load("schema.yaml").node) == ["mine"]
    print("mine is", cfg.mine)

main()
"""


def test_an_objective_is_loaded_inside_another_hydra_application(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "app.py", f"hydra.run.dir={tmp_path}/run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mine is 1" in done.stdout


def test_hydra_is_left_as_it_was(tmp_path):
    (tmp_path / "other.yaml").write_text("mine: 1\n")
    was_initialized = GlobalHydra.instance().is_initialized()  # by another test of this process
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        own = GlobalHydra.instance().hydra
        assert compose_config(["temperature.tau=3"]).temperature.tau == 3
        assert GlobalHydra.instance().hydra is own
        assert str(getbase()) == "1.2"
        assert compose("other").mine == 1
    assert GlobalHydra.instance().is_initialized() is was_initialized
    assert "schema.yaml" not in ConfigStore.instance().repo


def test_threads_may_compose_at_the_same_time():
    found = {}

    def work(tau):
        found[tau] = compose_config([f"temperature.tau={tau}"]).temperature.tau

    threads = [threading.Thread(target=work, args=(tau,)) for tau in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: 1, 2: 2, 3: 3}
