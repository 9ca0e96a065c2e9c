"""Collects and learns at the same time: the collector never waits for the learner."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import torch
from numpy.typing import NDArray

from gymnasium_env import (
    GymnasiumAction,
    GymnasiumObservation,
    GymnasiumState,
)
from openenv_async import Array, EnvBatch
from openenv_async.rollout import (
    Batching,
    Collector,
    CollectorOptions,
    Decision,
    Episode,
    EpisodeBatch,
    EpisodeContext,
    Task,
    collect,
    derive_seed,
    to_batch,
)
from openenv_async.rollout.adapters import Categorical, TorchPolicy

from .journal import Journal, Stopwatch, Workload
from .ppo import ActorCritic, Learner, Tensor, Transitions, Update

__all__ = ["Actor", "evaluate", "learn", "transitions_of"]

_ACTIONS = [GymnasiumAction(action=number) for number in range(2)]
_STEP_TIMEOUT = 10.0

CartPoleBatch = EnvBatch[GymnasiumAction, GymnasiumObservation, GymnasiumState]
CartPoleEpisode = Episode[GymnasiumAction, GymnasiumObservation]


class Actor:
    """The policy that acts, and says with each action which version of it chose.

    Args:
        model: Its weights; nobody else's.
        greedy: Whether to take the most likely action.
    """

    def __init__(self, model: ActorCritic, *, greedy: bool = False) -> None:
        self._model = model
        self._choose = Categorical(_ACTIONS.__getitem__, greedy=greedy)
        self.watch = Stopwatch(model)
        # The model takes less time than a thread takes to be woken.
        self.policy: TorchPolicy[GymnasiumObservation, GymnasiumAction] = TorchPolicy(
            self.watch, encode=_encode, decode=self._decode, threaded=False
        )

    def _decode(
        self, output: Tensor, episodes: Sequence[EpisodeContext]
    ) -> list[Decision[GymnasiumAction]]:
        decisions = self._choose(output, episodes)
        for decision in decisions:
            decision.extras["version"] = self._model.version
        return decisions

    def follow(self, model: ActorCritic) -> None:
        """Take over weights and version, between two calls of the policy."""
        with self.policy.lock:
            self._model.load_state_dict(model.state_dict())
            self._model.version = model.version


def _encode(observations: Sequence[GymnasiumObservation]) -> Tensor:
    return torch.from_numpy(_stack(observations))


def _stack(observations: Sequence[object]) -> NDArray[np.float32]:
    """Put observations into one array, with one copy."""
    rows = [getattr(observation, "observation", None) for observation in observations]
    joined = bytearray().join(row.data for row in rows if isinstance(row, Array))
    return np.frombuffer(joined, np.float32).reshape(len(rows), -1)


def transitions_of(batch: EpisodeBatch) -> Transitions:
    """Arrange what may be learned from; steps of masked episodes are left out."""
    steps, columns = batch.steps, batch.numpy()

    def extra(key: str, kind: type[Any]) -> NDArray[Any]:
        return np.array(steps.extras.get(key, []), kind)

    return Transitions(
        observations=_stack(steps.observations),
        actions=extra("choice", np.int64),
        logprobs=extra("logprob", np.float32),
        rewards=columns["step_rewards"].astype(np.float32),
        next_observations=_stack(steps.next_observations),
        terminated=columns["step_terminated"],
        last=np.diff(columns["step_episode"], append=-1) != 0,
        versions=extra("version", np.int64),
    ).select(columns["step_mask"])


async def learn(
    envs: CartPoleBatch,
    learner: Learner,
    journal: Journal,
    *,
    seed: int,
    episodes: int | None = None,
) -> None:
    """Play and learn until the goal is reached, or no episode is left.

    Cancelling it ends what is being played; an update that has begun is finished.

    Args:
        envs: The sessions to play on.
        learner: Learns.
        journal: Is told.
        seed: Of the environments, and of the policy's random numbers.
        episodes: Bound, if there is one.
    """
    actor = Actor(learner.make_actor())
    numbers = itertools.count() if episodes is None else range(episodes)
    options = CollectorOptions(
        seed=seed,
        # While the policy looks at one half of them, the server steps the other.
        batching=Batching(min=max(1, len(envs) // 2), max=None, timeout=0.005),
        step_timeout=_STEP_TIMEOUT,
        retries=1,
    )
    tasks = (Task(id=str(number)) for number in numbers)
    async with Collector(envs, actor.policy, tasks, options) as collector:
        trainer = _Trainer(collector, learner, actor, journal)
        fresh: list[CartPoleEpisode] = []
        steps = 0
        async for episode in collector:
            journal.ended(episode.return_, episode.length)
            fresh.append(episode)
            steps += episode.length
            if steps >= learner.settings.batch:
                await trainer.train(fresh)
                fresh, steps = [], 0
                if journal.reached:
                    return


class _Trainer:
    """Trains in a thread while the collector goes on, and says what that was like."""

    def __init__(
        self,
        collector: Collector[GymnasiumAction, GymnasiumObservation],
        learner: Learner,
        actor: Actor,
        journal: Journal,
    ) -> None:
        self._collector = collector
        self._learner = learner
        self._actor = actor
        self._journal = journal
        self._seconds = 0.0
        self._overlapped = 0

    async def train(self, episodes: list[CartPoleEpisode]) -> None:
        """Learn from episodes, and let the actor follow."""
        before = self._collector.statistics(slowest=0).steps
        # The collector has tasks of its own: only who takes its episodes waits here.
        update = await anyio.to_thread.run_sync(self._train, episodes)
        found = self._collector.statistics(slowest=0)
        self._seconds += update.seconds
        self._overlapped += found.steps - before
        workload = Workload(
            seconds=found.elapsed,
            policy_busy=found.policy_busy,
            model_busy=self._actor.watch.seconds / found.elapsed,
            training=self._seconds / found.elapsed,
            overlapped=self._overlapped / max(1, found.steps),
        )
        self._journal.updated(update, workload)

    def _train(self, episodes: list[CartPoleEpisode]) -> Update:
        update = self._learner.update(transitions_of(to_batch(episodes)))
        self._actor.follow(self._learner.model)
        return update


async def evaluate(
    envs: CartPoleBatch, model: ActorCritic, *, episodes: int, seed: int
) -> list[float | None]:
    """Play episodes that no training saw, without chance; returns their returns."""
    actor = Actor(model, greedy=True)
    played = collect(
        envs,
        actor.policy,
        episodes,
        seed=derive_seed(seed, "evaluation"),
        step_timeout=_STEP_TIMEOUT,
    )
    return [episode.return_ async for episode in played]
