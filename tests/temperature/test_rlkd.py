import io
import math

import pytest
import torch
import torch.nn.functional as F

from kdbench.config.build import build
from kdbench.config.compose import compose_config
from kdbench.objective.dkd import NCKD, TCKD
from kdbench.objective.kl import KL
from kdbench.progress import Progress
from kdbench.temperature.base import Temperatures
from kdbench.temperature.rlkd import Decisions, discounted_sums, redistribute, states_of
from tests.helpers.outputs import of


def make(*overrides, seed=0):
    torch.manual_seed(seed)
    options = [f"temperature.{override}" for override in overrides]
    return build(compose_config(["temperature=rlkd", *options]).temperature)


def at(epoch, total=240):
    """Progress in a 1-based epoch, as the paper counts."""
    return Progress(step=0, total_steps=10 * total, epoch=epoch - 1, total_epochs=total)


def batch(seed, size=8, classes=5):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, size, classes, generator=generator)
    targets = torch.randint(classes, (size,), generator=generator)
    return teacher, student.requires_grad_(), targets


def take_step(strategy, epoch, seed, **shape):
    teacher, student, targets = batch(seed, **shape)
    found = strategy(of(teacher, student, targets), at(epoch))
    strategy.observe(of(teacher, student.detach(), targets), at(epoch))
    return found


def shared(*taus):
    temperature = torch.tensor(taus, dtype=torch.float64)[:, None]
    return Temperatures(temperature, temperature, temperature.square().squeeze(1))


def golden(value):
    return pytest.approx(value, abs=1e-9)


def test_golden_temperatures_and_losses(set_a):
    _, student, targets = set_a
    tau = make().temperature_of(torch.tensor([[0.1], [-0.3]], dtype=torch.float64))
    assert tau.squeeze().tolist() == golden([5.2497918748, 4.2555748319])
    kl = KL()(of(*set_a), shared(*tau.squeeze().tolist())).mean()
    assert kl.item() == golden(0.5728021355)
    ce = F.cross_entropy(student, targets)
    assert (0.1 * ce + 0.9 * kl).item() == golden(0.6141676762)
    assert KL()(of(*set_a), shared(5, 3)).mean().item() == golden(0.5562662292)
    dkd = TCKD()(of(*set_a), shared(5, 3)) + 8 * NCKD()(of(*set_a), shared(5, 3))
    assert dkd.mean().item() == golden(1.6371309064)


def test_golden_states(set_a):
    teacher, student, _ = set_a
    released = states_of(teacher, student, "released")
    assert released[0].tolist() == golden([0.5482603601, 0.9201982044, 0.4740613890])
    assert released[1].tolist() == golden([0.5644462661, 0.5973434931, 0.4106167131])
    true = states_of(teacher, student, "true_margin")
    assert true[:, 2].tolist() == golden([0.2157236422, 0.3108242101])
    assert torch.equal(true[:, :2], released[:, :2])


def test_golden_gains_of_the_reward():
    found = [make().gain_at(epoch) for epoch in range(20, 241, 20)]
    published = [18.345653, 14.477358, 10.954915, 10.109262, 12.5, 16.545085]
    published += [19.567727, 6.25, 10, 6.25, 2.5, 1]
    assert found == pytest.approx(published, abs=5e-7)


@pytest.mark.parametrize(
    ("total", "first", "learning"),
    [
        (240, 20, list(range(20, 241, 20))),
        (60, 5, list(range(5, 61, 5))),
        (100, 9, [9, 17, 25, 34, 42, 50, 59, 67, 75, 84, 92, 100]),
        (480, 40, list(range(40, 481, 40))),
        (6, 1, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_schedule_of_240_epochs_is_stretched_to_others(total, first, learning):
    strategy = make()
    epochs = range(1, total + 1)
    assert [epoch for epoch in epochs if strategy.learns_at(at(epoch, total))] == learning
    temperatures = [strategy(of(*batch(0)), at(epoch, total)).teacher for epoch in epochs]
    assert [bool((tau == 4).all()) for tau in temperatures] == [epoch < first for epoch in epochs]
    assert strategy.epoch_at(at(total, total)) == 240


def test_the_policy_starts_with_the_published_spread():
    policy = make().agent.actor(torch.rand(3, 3))
    assert policy.stddev.flatten().tolist() == pytest.approx([0.6065306597] * 3, abs=1e-7)
    assert policy.mean.abs().max() < 1


def test_temperatures_stay_in_their_range_and_carry_no_gradient():
    strategy = make()
    extremes = strategy.temperature_of(torch.tensor([[-1e9], [-3.0], [1e9]]))
    assert extremes.squeeze().tolist() == [1.0, 1.0, 10.0]
    found = take_step(strategy, 30, seed=0)
    assert not any(tensor.requires_grad for tensor in found)
    assert torch.equal(found.scale, found.teacher.squeeze(1) ** 2)
    assert torch.equal(found.teacher, found.student)
    assert found.teacher.unique().numel() == 8


def test_constant_before_the_policy_and_sampled_from_then_on():
    strategy = make()
    assert (take_step(strategy, 19, seed=0).teacher == 4).all()
    arguments = (of(*batch(0)), at(20))
    assert not torch.equal(strategy(*arguments).teacher, strategy(*arguments).teacher)
    strategy.eval()
    assert torch.equal(strategy(*arguments).teacher, strategy(*arguments).teacher)


def test_rewards_are_the_changes_of_accuracy_in_the_epochs_that_learn(monkeypatch):
    strategy = make()
    paid = []
    monkeypatch.setattr(strategy.agent, "learn", lambda taken, reward: paid.append((taken, reward)))
    seen = []
    for seed, epoch in enumerate([19, 20, 20, 20, 21, 39, 40, 40]):
        teacher, student, targets = batch(seed)
        take_step(strategy, epoch, seed)
        accuracy = (student.argmax(1) == targets).float().mean()
        seen.append((states_of(teacher, student, "true_margin"), accuracy, epoch))
    # The first batch of a learning epoch is only pending; the last one's reward comes too late.
    expected = [
        (states, strategy.gain_at(epoch) * (following - own))
        for (states, own, _), (_, following, epoch) in (seen[1:3], seen[2:4], seen[6:8])
    ]
    assert len(paid) == len(expected)
    for (taken, reward), (states, due) in zip(paid, expected, strict=True):
        assert torch.equal(taken.states, states)
        assert reward.item() == pytest.approx(due.item())


@pytest.mark.parametrize("epoch", [20, 40])
def test_learning_moves_every_network(epoch):
    strategy = make()
    before = {name: p.clone() for name, p in strategy.named_parameters()}
    take_step(strategy, epoch, seed=0)
    assert all(torch.equal(p, before[name]) for name, p in strategy.named_parameters())
    take_step(strategy, epoch, seed=1)
    assert not any(torch.equal(p, before[name]) for name, p in strategy.named_parameters())


def test_nothing_is_learned_in_between():
    strategy = make()
    before = {name: p.clone() for name, p in strategy.named_parameters()}
    for seed, epoch in enumerate([1, 10, 19, 21, 22, 39, 39]):
        take_step(strategy, epoch, seed)
    assert all(torch.equal(p, before[name]) for name, p in strategy.named_parameters())


def test_batches_without_gradient_are_not_learned_from():
    strategy = make()
    take_step(strategy, 20, seed=0)
    waiting = strategy.get_extra_state()
    teacher, student, targets = batch(1)
    with torch.no_grad():
        strategy(of(teacher, student * 1, targets), at(20))
    assert torch.equal(strategy.get_extra_state(), waiting)
    strategy.observe(of(teacher, student.detach(), targets), at(20))
    assert strategy.get_extra_state().shape == (0, 6)


def test_sums_and_advantages_agree_with_a_loop():
    torch.manual_seed(1)
    rewards, values = torch.randn(2, 7, 1, dtype=torch.float64)
    agent = make().agent
    following, total, returns, advantage, advantages = values[-1], values[-1], [], 0, []
    for reward, value in zip(rewards.flip(0), values.flip(0), strict=True):
        error = reward + 0.99 * following - value
        advantage = error + 0.99 * 0.95 * advantage
        following, total = value, reward + 0.99 * total
        advantages.insert(0, advantage)
        returns.insert(0, total)
    advantages = torch.stack(advantages)
    advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
    found, found_returns = agent.estimate(rewards, values)
    torch.testing.assert_close(found, advantages)
    torch.testing.assert_close(found_returns, torch.stack(returns))
    assert discounted_sums(torch.ones(3, 1), 0.5).flatten().tolist() == [1.75, 1.5, 1.0]


def test_sample_rewards_add_up_to_the_reward():
    predictions = torch.tensor([[1.0], [3.0], [2.0], [4.0]])
    paid = redistribute(predictions, torch.tensor(6.0))
    assert paid.flatten().tolist() == [1.5, 2.5, -0.5, 2.5]
    assert redistribute(predictions[:1], torch.tensor(6.0)).item() == 6


def episode(agent, size=32):
    return agent.decide(torch.rand(size, 3))


def test_calibration_learns_the_reward_and_masks_irrelevant_states():
    strategy = make("agent.calibration.lr=0.01", "agent.calibration.steps=50")
    calibration, taken = strategy.agent.calibration, episode(strategy.agent)
    masks = [calibration.masker(taken.states).mean()]
    for _ in range(10):
        paid = calibration.learn(taken, torch.tensor(0.7))
        masks.append(calibration.masker(taken.states).mean())
    assert paid.sum().item() == pytest.approx(0.7, abs=1e-5)
    errors = calibration.predict(taken.states, taken.actions) - 0.7
    assert errors.abs().max() < 0.02
    assert masks[-1] < 0.2 < masks[0]
    assert torch.equal(
        calibration.mask(taken.states), calibration.masker(taken.states) * taken.states
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_policy_moves_towards_rewarded_actions(monkeypatch, sign):
    agent = make("agent.discount=0.0", "agent.actor_lr=0.003", "agent.hidden=16").agent
    monkeypatch.setattr(agent.calibration, "learn", lambda taken, reward: sign * taken.actions)
    states = torch.rand(32, 3)
    before = agent.actor(states).mean.detach()
    for _ in range(30):
        agent.learn(episode(agent), torch.tensor(0.0))
    assert (sign * (agent.actor(states).mean - before) > 0.2).all()


def test_the_surrogate_stops_where_it_is_clipped():
    agent = make().agent
    taken = episode(agent, size=2)
    far = Decisions(taken.states, taken.actions, taken.log_probs - math.log(1.3), taken.values)
    loss = agent.actor_loss(far.states, far, torch.tensor([[1.0], [-1.0]]))
    assert loss.item() == pytest.approx(-(1.2 - 1.3) / 2, abs=1e-5)
    gained = agent.actor_loss(far.states, far, torch.ones(2, 1))
    gained.backward()
    assert all((p.grad == 0).all() for p in agent.actor.parameters())


def saved(strategy):
    buffer = io.BytesIO()
    torch.save(strategy.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("epochs", [[], [20], [20, 20, 20], [20, 20, 21], [20, 20, 40, 40]])
def test_a_restart_changes_no_bit(epochs):
    strategy = make()
    for seed, epoch in enumerate(epochs):
        take_step(strategy, epoch, seed, size=8 - seed)
    other = make(seed=1)
    for seed in (8, 9):  # has its own state, which must be replaced
        take_step(other, 20, seed)
    other.load_state_dict(saved(strategy))
    for seed in (10, 11):
        temperatures = []
        for candidate in (strategy, other):
            torch.manual_seed(seed)
            temperatures.append(take_step(candidate, 40, seed).teacher)
        assert torch.equal(*temperatures)
    mine, theirs = strategy.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert mine["agent.actor._extra_state"][0] >= 5


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "logits", [torch.zeros(5), 1e4 * torch.arange(5.0), torch.full((5,), -7.0)]
)
def test_degenerate_batches_leave_everything_finite(size, logits):
    strategy = make()
    rows = logits.expand(size, 5).clone().requires_grad_()
    for _ in range(3):
        found = strategy(of(rows.detach(), rows, torch.zeros(size).long()), at(20))
        strategy.observe(of(rows.detach(), rows.detach(), torch.zeros(size).long()), at(20))
        assert all(tensor.isfinite().all() for tensor in found)
    assert all(p.isfinite().all() for p in strategy.parameters())


@pytest.mark.parametrize(
    "override",
    [
        "margin=other",
        "tau_min=10.0",
        "tau_min=0.0",
        "schedule_epochs=0",
        "update_every=0",
        "reward_stages=[[150,10.0]]",
        "reward_stages=[[150,10.0,0.0]]",
        "agent.clip=0.0",
        "agent.discount=1.5",
        "agent.calibration.hidden=0",
    ],
)
def test_invalid_values_are_rejected(override):
    from hydra.errors import InstantiationException

    with pytest.raises((ValueError, InstantiationException)) as caught:
        make(override)
    cause = caught.value.__cause__ or caught.value
    assert isinstance(cause, ValueError)
    assert override.split("=")[0].split(".")[-1] in str(cause)
