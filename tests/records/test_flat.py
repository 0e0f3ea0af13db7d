from kdbench.records.flat import flatten


def test_leaves_are_named_by_path_and_nodes_by_class():
    config = {
        "optim": {
            "lr": 0.1,
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9},
            "schedule": {"_target_": "a.b.MultiStep", "milestones": [0.5, 0.75], "warmup": None},
        },
        "seed": 0,
    }
    assert flatten(config) == {
        "optim_lr": 0.1,
        "optim_optimizer": "SGD",
        "optim_optimizer_momentum": 0.9,
        "optim_schedule": "MultiStep",
        "optim_schedule_milestones": "[0.5, 0.75]",
        "optim_schedule_warmup": None,
        "seed": 0,
    }


def test_no_key_has_a_dot():
    assert flatten({"a": {"b": {"c": 1}}}) == {"a_b_c": 1}
    assert flatten({}) == {}
