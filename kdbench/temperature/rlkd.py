"""Per-sample temperatures, chosen by an agent that is rewarded with training accuracy."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from kdbench.outputs import Outputs
from kdbench.progress import Progress
from kdbench.temperature.base import (
    Temperatures,
    TemperatureStrategy,
    dtype_of,
    require_fraction,
    require_positive,
    require_temperature,
    uniform,
)

Margin = Literal["true_margin", "released"]
STATE_SIZE = 3
MOMENTS = ("exp_avg", "exp_avg_sq")


class Decisions(NamedTuple):
    """The agent's states and actions on one batch, whose samples are the steps of an episode.

    Attributes:
        states: [B, 3].
        actions: [B, 1], before conversion to temperatures.
        log_probs: [B, 1], of the actions at sampling time.
        values: [B, 1], the critic's estimates at sampling time.
    """

    states: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor


class RLKD(TemperatureStrategy):
    """Lets a policy choose each sample's temperature from both networks' confidence.

    Rule: state_b = [max q, max p, margin of q], p = softmax(z_t), q = softmax(z_s); action
        a_b = mean(state_b) + std * noise; T_t = T_s = T_b = max(tau_max * sigmoid(a_b), tau_min),
        scale = T_b^2. Before epoch ``policy_from``, T is ``warmup_tau``. In epochs divisible by
        ``update_every``, each batch is an episode from which ``Agent`` learns; its reward is the
        accuracy on the next batch minus that on its own, both before their steps, times
        ``gain_at``. Epochs are 1-based and refer to a run of ``schedule_epochs``; the schedule is
        stretched for longer and shorter runs.
    Source: Zhang, Zhou, Gong, Liu, Tu, "Instance Temperature Knowledge Distillation",
        arXiv 2407.00115, and its released code.
    Shapes and ranges: per sample, tau_min <= T_b < tau_max; K >= 2 classes. In evaluation mode the
        policy acts without noise. The agent learns only from batches whose student logits require
        a gradient.
    Gradient: none; temperatures are constants to the student, and the agent trains itself.
    Deviations: margin="true_margin" is the largest minus the second largest probability; the
        released code subtracts the second smallest (margin="released"). Its reward is the change
        up to the batch's own forward pass, which the batch's temperatures cannot have caused, and
        averages accuracy over classes. It allows T = 0, takes likelihoods of the squashed action
        under the unsquashed density, and learns only from batches of 64. Its exploration, which
        mixes images by the student's uncertainty, is the plugin ``mixing``. See ``Agent`` and
        ``Calibration`` for theirs.
    """

    trains_itself = True
    needs = frozenset({"labels"})
    accuracy: Tensor  # on the previous batch

    def __init__(
        self,
        margin: Margin,
        tau_max: float,
        tau_min: float,
        warmup_tau: float,
        schedule_epochs: int,
        policy_from: int,
        update_every: int,
        reward_stages: Sequence[Sequence[float]],
        agent: "Agent",
    ) -> None:
        super().__init__()
        require_temperature(tau_max=tau_max, tau_min=tau_min, warmup_tau=warmup_tau)
        require_positive(schedule_epochs=schedule_epochs, update_every=update_every)
        if margin not in get_args(Margin):
            raise ValueError(f"margin must be one of {', '.join(get_args(Margin))}, found {margin}")
        if tau_min >= tau_max:
            raise ValueError(
                f"tau_min must be below tau_max, found tau_min={tau_min} and tau_max={tau_max}"
            )
        for position, stage in enumerate(reward_stages):
            if len(stage) != 3 or stage[2] <= 0:
                raise ValueError(
                    f"reward_stages[{position}] must be [before epoch, amplitude, half period > 0],"
                    f" found {list(stage)}"
                )
        self.margin, self.tau_max, self.tau_min = margin, tau_max, tau_min
        self.warmup_tau, self.schedule_epochs = warmup_tau, schedule_epochs
        self.policy_from, self.update_every = policy_from, update_every
        self.reward_stages = reward_stages
        self.agent = agent
        self.register_buffer("accuracy", torch.zeros(()))
        self._taken: Decisions | None = None  # on this batch
        self._pending: Decisions | None = None  # on the previous batch, awaiting its reward

    def forward(self, outputs: Outputs, progress: Progress) -> Temperatures:
        if self.epoch_at(progress) < self.policy_from:
            return uniform(self.warmup_tau, like=outputs.student.logits)
        teacher, student = outputs.logits
        states = states_of(teacher, student.detach(), self.margin)
        taken = self.agent.decide(states.to(dtype_of(self.agent, states.float())))
        if student.requires_grad:
            self._taken = taken
        temperature = self.temperature_of(taken.actions.to(student.dtype))
        return Temperatures(temperature, temperature, temperature.square().squeeze(1))

    def observe(self, outputs: Outputs, progress: Progress) -> None:
        """Rewards the previous batch with the change in accuracy; this one becomes pending."""
        accuracy = (outputs.student.logits.argmax(dim=1) == outputs.targets).float().mean()
        learns = self.learns_at(progress)
        if learns and self._pending is not None:
            gain = self.gain_at(self.epoch_at(progress))
            self.agent.learn(self._pending, gain * (accuracy - self.accuracy))
        self._pending, self._taken = self._taken if learns else None, None
        self.accuracy.copy_(accuracy)

    def temperature_of(self, actions: Tensor) -> Tensor:
        """Maps unbounded actions to temperatures."""
        return (self.tau_max * actions.sigmoid()).clamp(min=self.tau_min)

    def epoch_at(self, progress: Progress) -> float:
        """1-based epoch of the schedule that corresponds to this epoch of the run."""
        return (progress.epoch + 1) * self.schedule_epochs / progress.total_epochs

    def learns_at(self, progress: Progress) -> bool:
        """Whether this epoch reaches a multiple of ``update_every`` in the schedule."""
        period = progress.total_epochs * self.update_every
        before, after = (
            epoch * self.schedule_epochs // period for epoch in (progress.epoch, progress.epoch + 1)
        )
        return after > before and self.epoch_at(progress) >= self.policy_from

    def gain_at(self, epoch: float) -> float:
        """Factor on the reward in an epoch of the schedule; 1 after the last stage."""
        for before, amplitude, half_period in self.reward_stages:
            if epoch < before:
                return amplitude * ((math.cos(math.pi * epoch / half_period) + 1) / 2 + 1)
        return 1.0

    def get_extra_state(self) -> Tensor:
        """[B, 6] the pending decisions; B = 0 if there are none."""
        if self._pending is None:
            return self.accuracy.new_empty(0, STATE_SIZE + 3)
        return torch.cat(self._pending, dim=1)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the state of ``get_extra_state``."""
        columns = state.to(self.accuracy.device).split([STATE_SIZE, 1, 1, 1], dim=1)
        self._pending = Decisions(*columns) if len(state) else None


class Agent(nn.Module):
    """Proximal policy optimization (PPO), with each batch as an episode.

    Rule: the policy is Gaussian; its mean is tanh of a network with two hidden layers, its
        standard deviation is exp(log_std) for all states. ``Calibration`` distributes the reward
        over the samples and masks the states. Advantages are generalized estimates (GAE),
        normalized to mean 0 and population standard deviation 1; the last sample bootstraps from
        its own value. The critic fits discounted returns, the actor maximizes
        mean(min(r A, clip(r, 1 - clip, 1 + clip) A)) with the likelihood ratio r.
    Source: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347; values
        from the released code of RLKD.
    Deviations: the released code normalizes constant advantages to 0 / 0; here the standard
        deviation is at least advantage_std_min. A policy without entropy bonus may collapse and
        stop learning, so its std is at least std_min.
    """

    def __init__(
        self,
        hidden: int,
        log_std_offset: float,
        log_std_parts: int,
        std_min: float,
        actor_lr: float,
        critic_lr: float,
        actor_epochs: int,
        critic_epochs: int,
        clip: float,
        max_grad_norm: float,
        discount: float,
        gae_lambda: float,
        advantage_std_min: float,
        calibration: "Calibration",
    ) -> None:
        super().__init__()
        require_positive(hidden=hidden, log_std_parts=log_std_parts, std_min=std_min, clip=clip)
        require_positive(max_grad_norm=max_grad_norm, advantage_std_min=advantage_std_min)
        require_fraction(discount=discount, gae_lambda=gae_lambda)
        actor = Actor(hidden, log_std_offset, log_std_parts, std_min)
        self.actor = NetworkWithAdam(actor, actor_lr, max_grad_norm)
        self.critic = NetworkWithAdam(perceptron(hidden), critic_lr, max_grad_norm)
        self.actor_epochs, self.critic_epochs = actor_epochs, critic_epochs
        self.clip, self.advantage_std_min = clip, advantage_std_min
        self.discount, self.gae_lambda = discount, gae_lambda
        self.calibration = calibration

    @torch.no_grad()
    def decide(self, states: Tensor) -> Decisions:
        """One action for each state [B, 3]: sampled in training mode, else the mean."""
        policy = self.actor(states)
        actions = policy.sample() if self.training else policy.mean
        return Decisions(states, actions, policy.log_prob(actions), self.critic(states))

    @torch.enable_grad()
    def learn(self, taken: Decisions, reward: Tensor) -> None:
        """Trains all networks on one episode; ``reward`` is a scalar."""
        rewards = self.calibration.learn(taken, reward)
        states = self.calibration.mask(taken.states)
        advantages, returns = self.estimate(rewards, taken.values)
        for _ in range(self.critic_epochs):
            self.critic.step(F.mse_loss(self.critic(states), returns))
        for _ in range(self.actor_epochs):
            self.actor.step(self.actor_loss(states, taken, advantages))

    def estimate(self, rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized advantages and discounted returns, each [B, 1]."""
        following = torch.cat([values[1:], values[-1:]])
        errors = rewards + self.discount * following - values
        advantages = discounted_sums(errors, self.discount * self.gae_lambda)
        spread = advantages.std(correction=0).clamp(min=self.advantage_std_min)
        rewards = torch.cat([rewards[:-1], rewards[-1:] + self.discount * values[-1:]])
        returns = discounted_sums(rewards, self.discount)
        return (advantages - advantages.mean()) / spread, returns

    def actor_loss(self, states: Tensor, taken: Decisions, advantages: Tensor) -> Tensor:
        """The clipped surrogate, negated."""
        ratio = (self.actor(states).log_prob(taken.actions) - taken.log_probs).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return -torch.minimum(ratio * advantages, clipped * advantages).mean()


class Calibration(nn.Module):
    """Distributes the reward of a batch over its samples, and finds the relevant states.

    Rule: a linear predictor g_b of the reward R from state and action minimizes
        (g_B - R)^2 + step_weight * mean_b (g_b - R)^2; sample b gets the reward g_b - g_(b-1), with
        g_0 = 0, plus an equal share of R - g_B, so that the rewards add up to R. A mask m_b in
        (0, 1) is fitted so that the predictor gives R for the masked states m_b * state_b:
        mean_b (g(m_b * state_b, a_b) - R)^2 + sparsity * sum_b m_b.
    Source: RLKD, section on instance reward calibration, and its released code; after
        Arjona-Medina et al., "RUDDER", NeurIPS 2019.
    Deviations: the paper describes recurrent networks, the released ones are linear. As released,
        both losses are degenerate (a squared mean error; a cross-entropy over one class, which is
        0), and their target is the discounted return. The losses here are what their names imply.
    """

    def __init__(
        self, hidden: int, lr: float, steps: int, step_weight: float, sparsity: float
    ) -> None:
        super().__init__()
        require_positive(hidden=hidden, lr=lr)
        predictor = nn.Sequential(nn.Linear(STATE_SIZE + 1, hidden), nn.Linear(hidden, 1))
        masker = nn.Sequential(nn.Linear(STATE_SIZE, hidden), nn.Linear(hidden, 1), nn.Sigmoid())
        self.predictor = NetworkWithAdam(predictor, lr, max_grad_norm=math.inf)
        self.masker = NetworkWithAdam(masker, lr, max_grad_norm=math.inf)
        self.steps, self.step_weight, self.sparsity = steps, step_weight, sparsity

    def learn(self, taken: Decisions, reward: Tensor) -> Tensor:
        """Fits both networks to one episode; returns the reward of each sample, [B, 1]."""
        for _ in range(self.steps):
            errors = (self.predict(taken.states, taken.actions) - reward).square()
            self.predictor.step(errors[-1].squeeze() + self.step_weight * errors.mean())
        for _ in range(self.steps):
            mask = self.masker(taken.states)
            errors = (self.predict(mask * taken.states, taken.actions) - reward).square()
            self.masker.step(errors.mean() + self.sparsity * mask.sum())
        with torch.no_grad():
            return redistribute(self.predict(taken.states, taken.actions), reward)

    @torch.no_grad()
    def mask(self, states: Tensor) -> Tensor:
        """The states, weighted by relevance."""
        return self.masker(states) * states

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predicted reward at each sample, [B, 1]."""
        return self.predictor(torch.cat([states, actions], dim=1))


class Actor(nn.Module):
    """A Gaussian policy over one action.

    The log standard deviation is the sum of several parameters and an offset, so that Adam moves
    it by as many learning rates per step as there are parameters.
    """

    def __init__(self, hidden: int, offset: float, parts: int, std_min: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(*perceptron(hidden), nn.Tanh())
        self.log_std = nn.Parameter(torch.zeros(parts))
        self.offset, self.std_min = offset, std_min

    def forward(self, states: Tensor) -> Normal:
        """Distribution of the actions [B, 1] given states [B, 3]."""
        std = (self.log_std.sum() + self.offset).exp().clamp(min=self.std_min)
        return Normal(self.mean(states), std, validate_args=False)


class NetworkWithAdam(nn.Module):
    """A network with its own Adam optimizer, whose moments are saved with the weights."""

    def __init__(self, network: nn.Module, lr: float, max_grad_norm: float) -> None:
        super().__init__()
        self.network, self.max_grad_norm = network, max_grad_norm
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's output."""
        return self.network(inputs)

    def step(self, loss: Tensor) -> None:
        """One optimizer step on this network's weights."""
        self.optimizer.zero_grad()
        loss.backward(inputs=list(self.parameters()))
        nn.utils.clip_grad_norm_(self.parameters(), self.max_grad_norm)
        self.optimizer.step()

    def get_extra_state(self) -> Tensor:
        """[1 + 2 P] Adam's step count and both moments of the P weights; 0 before step 1."""
        weights = list(self.parameters())
        states = [self.optimizer.state[weight] for weight in weights]
        if not all(states):
            return weights[0].new_zeros(1 + 2 * sum(weight.numel() for weight in weights))
        moments = [state[name].flatten() for name in MOMENTS for state in states]
        return torch.cat([states[0]["step"].reshape(1).to(moments[0]), *moments])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the state of ``get_extra_state``."""
        weights = list(self.parameters())
        sizes = [weight.numel() for weight in weights]
        count, *moments = state.split([1, *sizes, *sizes])
        for weight, *own in zip(weights, moments[: len(sizes)], moments[len(sizes) :], strict=True):
            copies = [moment.to(weight).view_as(weight).clone() for moment in own]
            self.optimizer.state[weight] = dict(zip(MOMENTS, copies, strict=True))
            self.optimizer.state[weight]["step"] = count.squeeze().cpu().clone()


def perceptron(hidden: int) -> nn.Sequential:
    """Two hidden layers from a state to one number."""
    return nn.Sequential(
        nn.Linear(STATE_SIZE, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 1),
    )


def states_of(teacher_logits: Tensor, student_logits: Tensor, margin: Margin) -> Tensor:
    """[B, 3] largest probability of student and of teacher, and the student's margin."""
    student, teacher = student_logits.softmax(dim=1), teacher_logits.softmax(dim=1)
    top = student.topk(2, dim=1).values
    largest, second = top[:, :1], top[:, 1:]
    if margin == "released":
        second = student.kthvalue(2, dim=1, keepdim=True).values
    return torch.cat([largest, teacher.amax(dim=1, keepdim=True), largest - second], dim=1)


def redistribute(predictions: Tensor, reward: Tensor) -> Tensor:
    """[B, 1] rewards that add up to the total: differences of predictions plus equal shares."""
    added = predictions.diff(dim=0, prepend=torch.zeros_like(predictions[:1]))
    return added + (reward - predictions[-1:]) / len(predictions)


def discounted_sums(values: Tensor, factor: float) -> Tensor:
    """[B, 1] sums over j >= i of factor^(j - i) * values_j."""
    position = torch.arange(len(values), device=values.device, dtype=values.dtype)
    distance = position - position[:, None]
    return (factor ** distance.clamp(min=0)).triu() @ values
