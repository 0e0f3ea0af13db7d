import torch

from kdbench.engine.seed import RandomState, derive_seed

CPU = torch.device("cpu")


def test_turns_do_not_mix():
    alone = RandomState(1, CPU)
    with alone.turn():
        expected = torch.rand(4)
    first, second = RandomState(1, CPU), RandomState(2, CPU)
    with first.turn():
        beginning = torch.rand(2)
    with second.turn():
        torch.rand(100)
    with first.turn():
        end = torch.rand(2)
    assert torch.equal(torch.cat([beginning, end]), expected)


def test_global_generators_are_restored_after_a_turn():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    state = RandomState(5, CPU)
    with state.turn():
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)


def test_state_round_trip():
    state, copy = RandomState(3, CPU), RandomState(4, CPU)
    with state.turn():
        torch.rand(5)
    copy.load_state_dict(state.state_dict())
    with state.turn():
        expected = torch.rand(5)
    with copy.turn():
        assert torch.equal(torch.rand(5), expected)


def test_derived_seeds_are_stable_and_distinct():
    seeds = {derive_seed(seed, stream) for seed in range(20) for stream in ("data", "learner")}
    assert len(seeds) == 40
    assert derive_seed(0, "data") == derive_seed(0, "data") < 2**63
