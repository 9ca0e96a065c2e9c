"""PPO that takes data of earlier policies: what is learned, and how.

The clipped surrogate is that of Schulman et al., "Proximal policy optimization
algorithms" (arXiv:1707.06347). Advantages are those of generalised advantage estimation
(arXiv:1506.02438), corrected for the policy that really acted by the truncated
importance weights of V-trace (Espeholt et al., "IMPALA", arXiv:1802.01561, section 4.1
with the lambda of remark 2). Where the acting policy is the learning one, all weights
are 1, and what is left is PPO.
"""

from __future__ import annotations

import copy
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "ActorCritic",
    "Learner",
    "Settings",
    "Tensor",
    "Transitions",
    "Update",
    "surrogate",
    "targets",
]

Tensor: TypeAlias = Any
"""Type checkers here do without PyTorch, which is too large for every machine."""

Floats = NDArray[np.float32]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to learn; the defaults suit CartPole."""

    batch: int = 4096
    """Steps of an update at least."""
    epochs: int = 6
    minibatch: int = 1024
    rate: float = 3e-3
    discount: float = 0.99
    trace: float = 0.95
    """Lambda, of the advantages."""
    clip: float = 0.2
    """How far from 1 an importance weight still has a gradient."""
    entropy: float = 0.005
    value: float = 0.5
    """Weight of the critic's loss."""
    norm: float = 0.5
    """Of the gradient, at most."""
    max_lag: int = 8
    """Updates since the acting policy, at most: older steps are left out."""


class Transitions(NamedTuple):
    """Steps as columns; those of one trajectory follow each other."""

    observations: Floats
    actions: NDArray[np.int64]
    logprobs: Floats
    """Of the actions, by the policy that chose them."""
    rewards: Floats
    next_observations: Floats
    terminated: NDArray[np.bool_]
    last: NDArray[np.bool_]
    """Whether the next row is of another trajectory."""
    versions: NDArray[np.int64]
    """Of the policies that chose the actions."""

    def select(self, rows: NDArray[np.bool_]) -> Transitions:
        """Keep some rows."""
        return Transitions._make(column[rows] for column in self)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What one update did."""

    version: int
    """Of the policy that came out."""
    steps: int
    """That it learned from."""
    stale: int
    """Steps that were too old to learn from."""
    lag_mean: float
    """Updates between the policies that acted and the one that learned."""
    lag_max: int
    clipped: float
    """Share of the steps whose importance weight ended outside of the clip range."""
    seconds: float


class ActorCritic(torch.nn.Module):  # type: ignore[misc]  # untyped for mypy
    """Two small networks: logits of the actions, and the value of the state.

    Args:
        observations: Numbers in an observation.
        actions: How many there are.
        hidden: Width of both hidden layers.
    """

    def __init__(
        self, observations: int = 4, actions: int = 2, *, hidden: int = 64
    ) -> None:
        super().__init__()
        # A policy that starts near uniform explores; the critic starts near zero.
        self.actor = _network(observations, hidden, actions, scale=0.01)
        self.critic = _network(observations, hidden, 1, scale=1.0)
        self.version = 0
        """Updates so far; changes together with the weights."""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and values."""
        return self.actor(observations), self.critic(observations).squeeze(-1)


def _network(inputs: int, hidden: int, outputs: int, *, scale: float) -> Tensor:
    layers = [
        torch.nn.Linear(inputs, hidden),
        torch.nn.Linear(hidden, hidden),
        torch.nn.Linear(hidden, outputs),
    ]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, scale), strict=True):
        torch.nn.init.orthogonal_(layer.weight, gain)
        torch.nn.init.zeros_(layer.bias)
    first, second, last = layers
    return torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Tanh(), last)


# What to learn


def targets(
    data: Transitions,
    *,
    values: Floats,
    next_values: Floats,
    logprobs: Floats,
    settings: Settings,
) -> tuple[Floats, Floats]:
    """Compute what to raise or lower the actions' probabilities by, and true values.

    A trajectory that was cut off goes on in the critic's opinion; one that terminated
    is worth nothing more.

    Args:
        data: The steps.
        values: The critic's, of what was seen.
        next_values: The critic's, of what followed.
        logprobs: Of the actions, by the learning policy.
        settings: Discount and lambda.
    """
    weights = np.exp(np.minimum(0.0, logprobs - data.logprobs))
    ahead = settings.discount * next_values * ~data.terminated
    errors = data.rewards + ahead - values
    advantages = np.zeros(len(errors), np.float32)
    decay = settings.discount * settings.trace
    following = 0.0
    # Plain floats: a recursion over NumPy's is several times slower.
    rows = zip(weights.tolist(), errors.tolist(), data.last.tolist(), strict=True)
    for row, (weight, error, last) in reversed(list(enumerate(rows))):
        advantage = error if last else error + decay * following
        advantages[row] = advantage
        following = weight * advantage
    corrected: Floats = (weights * advantages).astype(np.float32)
    return advantages, values + corrected


def surrogate(
    logprobs: Tensor, acted: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Return the clipped objective, to be raised, and the importance weights."""
    weights = (logprobs - acted).exp()
    clipped = weights.clamp(1 - clip, 1 + clip)
    return torch.minimum(weights * advantages, clipped * advantages).mean(), weights


class Learner:
    """Owns the weights that are trained, and never those that act.

    Args:
        settings: How to learn.
        seed: For the first weights and the order of the steps.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        torch.manual_seed(seed)
        self.model = ActorCritic()
        self._random = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), settings.rate, fused=True
        )

    def make_actor(self) -> ActorCritic:
        """Copy the model; the copy changes when it is told to."""
        return copy.deepcopy(self.model)

    def update(self, data: Transitions) -> Update:
        """Learn from steps; blocks, so call it in a thread.

        Raises:
            ValueError: All steps are too old.
        """
        began = perf_counter()
        lags = self.model.version - data.versions
        fresh = lags <= self.settings.max_lag
        if not fresh.any():
            raise ValueError(
                f"expected a step of the last {self.settings.max_lag} policies, got "
                f"{len(data.versions)} older ones"
            )
        data = data.select(fresh)
        columns = self._prepare(data)
        for _ in range(self.settings.epochs):
            order = torch.randperm(len(data.actions), generator=self._random)
            for rows in order.split(self.settings.minibatch):
                self._descend(*(column[rows] for column in columns))
        observations, actions, acted = columns[:3]
        with torch.no_grad():
            weights = (self._logprobs(observations, actions)[0] - acted).exp()
        outside = (weights - 1).abs() > self.settings.clip
        self.model.version += 1
        return Update(
            version=self.model.version,
            steps=len(data.actions),
            stale=int((~fresh).sum()),
            lag_mean=float(lags[fresh].mean()),
            lag_max=int(lags[fresh].max()),
            clipped=float(outside.float().mean()),
            seconds=perf_counter() - began,
        )

    def _prepare(self, data: Transitions) -> tuple[Tensor, ...]:
        """Observations, actions, their logprobs, advantages and true values."""
        observations = torch.from_numpy(data.observations)
        actions = torch.from_numpy(data.actions)
        with torch.no_grad():
            logprobs, _, values = self._logprobs(observations, actions)
            following = self.model.critic(torch.from_numpy(data.next_observations))
        advantages, true_values = targets(
            data,
            values=values.numpy(),
            next_values=following.squeeze(-1).numpy(),
            logprobs=logprobs.numpy(),
            settings=self.settings,
        )
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        made = data.logprobs, advantages, true_values
        return observations, actions, *map(torch.from_numpy, made)

    def _logprobs(
        self, observations: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the actions that were chosen, and of all; and the values."""
        logits, values = self.model(observations)
        every = torch.log_softmax(logits, dim=-1)
        return every.gather(-1, actions[:, None]).squeeze(-1), every, values

    def _descend(
        self,
        observations: Tensor,
        actions: Tensor,
        acted: Tensor,
        advantages: Tensor,
        true_values: Tensor,
    ) -> None:
        logprobs, every, values = self._logprobs(observations, actions)
        objective, _ = surrogate(logprobs, acted, advantages, self.settings.clip)
        entropy = -(every.exp() * every).sum(-1).mean()
        error = (values - true_values).square().mean()
        loss = self.settings.value * error - objective - self.settings.entropy * entropy
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.norm)
        self._optimizer.step()
