"""DOT against SGD with two hand-written buffers."""

import io

import pytest
import torch
from torch.amp import GradScaler

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.errors import ConfigError
from kdbench.objective.objective import LossTerms
from kdbench.plugin.base import Plugin
from kdbench.plugin.dot import DOT

OFF = GradScaler("cpu", enabled=False)
RATES = [0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
MU, DELTA, DECAY = 0.9, 0.075, 0.01


def make_params():
    """One parameter reached by both losses, one by the task only, one by distillation only."""
    generator = torch.Generator().manual_seed(0)
    both, of_task, of_distillation = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return [p.clone().requires_grad_() for p in (both, of_task, of_distillation)]


def losses(params, step):
    """Per-sample losses [3] of a step; two are distillation losses."""
    both, of_task, of_distillation = params
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    hidden = (x * both).tanh()
    ce = (hidden + of_task).square().sum(1)
    tckd = (hidden * of_distillation).sin().sum(1)
    return LossTerms({"ce": ce, "tckd": tckd, "nckd": 0.5 * hidden.square().sum(1)})


def make_sgd(params, **changes):
    settings = {"lr": 0.1, "momentum": MU, "weight_decay": DECAY} | changes
    # the last parameter in its own group, without decay, like a learned temperature
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.0}]
    return torch.optim.SGD(groups, **settings)


def train(plugin, params, optimizer, steps=range(6)):
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.zero_grad()
        plugin.update(losses(params, step), optimizer, OFF)
    return params


def by_hand(decay_of_distillation):
    """The rule, one parameter at a time: (has task gradient, has distillation gradient, decay)."""
    params = make_params()
    reached = [(True, True, DECAY), (True, False, DECAY), (False, True, decay_of_distillation)]
    v_ce, v_kd = [None] * 3, [None] * 3
    for step, lr in enumerate(RATES):
        terms = losses(params, step).terms
        ce, kd = terms["ce"].mean(), (terms["tckd"] + terms["nckd"]).mean()
        g_ce = torch.autograd.grad(ce, params, retain_graph=True, allow_unused=True)
        g_kd = torch.autograd.grad(kd, params, allow_unused=True)
        with torch.no_grad():
            for i, (of_task, of_distillation, decay) in enumerate(reached):
                theta, spread = params[i].clone(), DELTA if of_task and of_distillation else 0.0
                if of_task:
                    g = g_ce[i] + decay * theta
                    v_ce[i] = g if v_ce[i] is None else (MU - spread) * v_ce[i] + g
                    params[i] -= lr * v_ce[i]
                if of_distillation:
                    g = g_kd[i] + (0 if of_task else decay * theta)
                    v_kd[i] = g if v_kd[i] is None else (MU + spread) * v_kd[i] + g
                    params[i] -= lr * v_kd[i]
    return params


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_equals_two_buffers_by_hand(decay):
    params = make_params()
    optimizer = make_sgd(params)
    optimizer.param_groups[1]["weight_decay"] = decay
    found = train(DOT(DELTA), params, optimizer)
    for mine, exact in zip(found, by_hand(decay), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)


def test_without_a_difference_it_is_sgd():
    params, reference = make_params(), make_params()
    optimizer, sgd = make_sgd(params), make_sgd(reference)
    train(DOT(0.0), params, optimizer)
    train(Plugin(), reference, sgd)
    for mine, exact in zip(params, reference, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
        buffers = sum(optimizer.state[mine].values())
        torch.testing.assert_close(buffers, sgd.state[exact]["momentum_buffer"])


def test_the_difference_matters():
    shared = [
        train(DOT(delta), p, make_sgd(p))[0] for delta in (0.0, DELTA) if (p := make_params())
    ]
    assert not torch.allclose(*shared, rtol=1e-3)


def test_a_buffer_starts_as_its_first_gradient():
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = make_sgd(params)
    train(DOT(DELTA), params, optimizer, steps=[0])
    terms = losses([p.requires_grad_() for p in before], 0).terms
    (task,) = torch.autograd.grad(terms["ce"].mean(), before[:1], retain_graph=True)
    (distilled,) = torch.autograd.grad((terms["tckd"] + terms["nckd"]).mean(), before[:1])
    state = optimizer.state[params[0]]
    torch.testing.assert_close(state["ce_buffer"], (task + DECAY * before[0]).detach())
    torch.testing.assert_close(state["kd_buffer"], distilled)
    assert [set(optimizer.state[p]) for p in params[1:]] == [{"ce_buffer"}, {"kd_buffer"}]


def test_state_survives_a_checkpoint_bit_for_bit():
    whole = train(DOT(DELTA), params := make_params(), make_sgd(params))
    params = make_params()
    plugin, optimizer = DOT(DELTA), make_sgd(params)
    train(plugin, params, optimizer, steps=range(3))
    file = io.BytesIO()
    torch.save([plugin.state_dict(), optimizer.state_dict(), params], file)
    file.seek(0)
    of_plugin, of_optimizer, values = torch.load(file, weights_only=True)
    resumed = [p.detach().clone().requires_grad_() for p in values]
    plugin, optimizer = DOT(DELTA), make_sgd(resumed)
    plugin.load_state_dict(of_plugin)
    optimizer.load_state_dict(of_optimizer)
    train(plugin, resumed, optimizer, steps=range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


def test_frozen_parameters_stay():
    params = make_params()
    params[1].requires_grad_(False)
    before = params[1].clone()
    train(DOT(DELTA), params, make_sgd(params))
    assert torch.equal(params[1], before)


def test_labels_of_the_strong_view_are_task():
    params = make_params()
    optimizer = make_sgd(params)
    terms = losses(params, 0).terms
    named = {"ce": terms["tckd"], "ce_strong": terms["nckd"], "kd": terms["ce"]}
    task = frozenset({"ce", "ce_strong"})
    DOT(DELTA).update(LossTerms(named, task=task), optimizer, OFF)
    assert [set(optimizer.state[p]) for p in params[1:]] == [{"kd_buffer"}, {"ce_buffer"}]


def test_another_optimizer_is_rejected():
    params = make_params()
    for optimizer in (torch.optim.AdamW(params), torch.optim.Adam(params)):
        with pytest.raises(
            ConfigError, match=f"plugin=dot .* {type(optimizer).__name__}; use optim"
        ):
            DOT(DELTA).update(losses(params, 0), optimizer, OFF)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nesterov": True}, "plain SGD, found optim.optimizer.nesterov=True; set it to False"),
        ({"dampening": 0.1}, "plain SGD, found optim.optimizer.dampening=0.1; set it to 0.0"),
        ({"maximize": True}, "plain SGD, found optim.optimizer.maximize=True; set it to False"),
        ({"momentum": 0.0}, "delta=0.075 must be below .*momentum=0.0"),
        ({"momentum": 0.95}, "delta=0.075 must be below .*momentum=0.95"),
    ],
)
def test_other_settings_of_sgd_are_rejected(changes, message):
    params = make_params()
    with pytest.raises(ConfigError, match=message):
        DOT(DELTA).update(losses(params, 0), make_sgd(params, **changes), OFF)


def test_fp16_is_rejected():
    params = make_params()
    with pytest.raises(ConfigError, match=r"run\.precision=fp16; use run\.precision=bf16 or fp32"):
        DOT(DELTA).update(losses(params, 0), make_sgd(params), GradScaler("cpu", enabled=True))


def test_an_objective_without_distillation_is_rejected():
    params = make_params()
    alone = LossTerms({"ce": losses(params, 0).terms["ce"]})
    with pytest.raises(ConfigError, match="needs a distillation term besides ce"):
        DOT(DELTA).update(alone, make_sgd(params), OFF)


@pytest.mark.parametrize("delta", [-0.1, 0.5, float("nan"), float("inf")])
def test_invalid_deltas_are_rejected(delta):
    with pytest.raises(ValueError, match="delta must lie in"):
        DOT(delta)


def test_the_published_difference():
    assert build(compose_config(["plugin=dot"]).plugin).delta == 0.075
