import pytest

from kdbench.config.canonical import canonical
from kdbench.config.compose import compose_config
from kdbench.config.identity import resolve_config, run_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["temperature.tau=4"], ["temperature.tau=4.0"]),
        (["temperature=linear", "temperature.end=6"],
         ["temperature=linear", "temperature.end=6.0"]),
        (["temperature=step", "temperature.milestones=[1]"],
         ["temperature=step", "temperature.milestones=[1.0]"]),
        (["objective.ce_weight=1"], ["objective.ce_weight=1.0"]),
        (["objective.terms.kd.weight=1"], ["objective.terms.kd.weight=1.0"]),
        (["optim.optimizer.momentum=0"], ["optim.optimizer.momentum=0.0"]),
        (["optim=adamw", "+optim.optimizer.betas=[0,1]"],
         ["optim=adamw", "+optim.optimizer.betas=[0.0,1.0]"]),
        (["teacher.optim.optimizer.momentum=1"], ["teacher.optim.optimizer.momentum=1.0"]),
        (["optim.lr=1"], ["optim.lr=1.0"]),
    ],
)  # fmt: skip
def test_two_spellings_are_one_run(tmp_path, one, other):
    keys = [
        run_key(compose_config([f"paths.outputs={tmp_path}", "debug=smoke", *overrides]))
        for overrides in (one, other)
    ]
    assert keys[0] == keys[1]


def test_the_record_says_it_in_one_way():
    plain = resolve_config(compose_config(["temperature.tau=4", "objective.ce_weight=1"]))
    assert repr(plain["temperature"]["tau"]) == "4.0"
    assert repr(plain["objective"]["ce_weight"]) == "1.0"
    assert repr(plain["run"]["epochs"]) == repr(plain["dataset"]["epochs"])
    assert isinstance(plain["dataset"]["batch_size"], int)


def test_only_numbers_that_become_floats_are_touched():
    node = {"_target_": "kdbench.model.load.load_model", "num_classes": 4, "depth": 3}
    assert repr(canonical(node)) == repr(node)
    nesterov = {"_target_": "torch.optim.SGD", "nesterov": True, "momentum": 1, "foreach": None}
    found = canonical(nesterov)
    assert found["nesterov"] is True
    assert repr(found["momentum"]) == "1.0"
    assert canonical({"free": 4, "list": [1, 2]}) == {"free": 4, "list": [1, 2]}


def test_auto_is_what_it_means_here(tmp_path, monkeypatch):
    from kdbench import machine
    from kdbench.config import identity

    def key(*overrides):
        return run_key(compose_config([f"paths.outputs={tmp_path}", "debug=smoke", *overrides]))

    for fast, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(machine, "has_fast_bf16", lambda device, fast=fast: fast)
        assert key("run.precision=auto") == key(f"run.precision={precision}")
        training = identity.teacher_config(compose_config(["run.precision=auto"]))
        assert training.run.precision == precision
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device: None)
    assert key("run.precision=auto") not in (key("run.precision=bf16"), key())


def test_auto_is_left_open_where_the_run_is_trained_elsewhere(monkeypatch):
    from kdbench import machine
    from kdbench.config.compose import compose, hydra_context, restore_config

    monkeypatch.setattr(machine, "has_fast_bf16", lambda device: True)
    for launcher, precision in (("cohort", "bf16"), ("cohort_slurm", "auto")):
        overrides = [f"hydra/launcher={launcher}", "run.precision=auto"]
        with hydra_context() as loader:
            cfg = compose(loader, overrides, with_hydra=True)
        plain = resolve_config(cfg)
        assert plain["run"]["precision"] == precision
        # What the launcher sends is taken as it is, so that both know one key.
        assert resolve_config(restore_config(plain)) == plain


def test_the_processor_is_queried_without_torch():
    from kdbench.machine import has_fast_bf16

    torch = pytest.importorskip("torch")
    expected = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert has_fast_bf16("cpu") in (expected, None)
