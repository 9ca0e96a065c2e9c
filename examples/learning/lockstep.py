"""The same on Gymnasium's `AsyncVectorEnv`: step all, act on all, learn, from the top.

Environments run in a process each. The loop waits for the slowest of them, and all of
them wait while it acts and learns.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from .journal import Journal, Stopwatch, Workload
from .ppo import ActorCritic, Learner, Tensor, Transitions

__all__ = ["learn"]


def learn(
    learner: Learner,
    journal: Journal,
    *,
    id: str,
    size: int,
    seed: int,
    seconds: float,
) -> None:
    """Play and learn until the goal is reached, or the time is up.

    Args:
        learner: Learns.
        journal: Is told.
        id: Of the environment, which is registered.
        size: How many environments.
        seed: Of the environments, and of the policy's random numbers.
        seconds: Bound.
    """
    envs = AsyncVectorEnv(
        [lambda: gymnasium.make(id, disable_env_checker=True)] * size,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    try:
        loop = _Loop(envs, learner.model, journal, size=size, seed=seed)
        while not journal.reached and loop.elapsed < seconds:
            update = learner.update(loop.play(learner.settings.batch // size))
            loop.trained += update.seconds
            journal.updated(update, loop.workload())
    finally:
        envs.close()


class _Loop:
    def __init__(
        self,
        envs: AsyncVectorEnv,
        model: ActorCritic,
        journal: Journal,
        *,
        size: int,
        seed: int,
    ) -> None:
        self._envs = envs
        self._journal = journal
        self._model = model
        self._watch = Stopwatch(model)
        self._policy = Stopwatch(self._act)
        self._random = torch.Generator().manual_seed(seed)
        self._seen, _ = envs.reset(seed=seed)
        self._returns = np.zeros(size)
        self._began = perf_counter()
        self.trained = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the first reset."""
        return perf_counter() - self._began

    def workload(self) -> Workload:
        """How busy everybody was."""
        elapsed = self.elapsed
        return Workload(
            seconds=elapsed,
            policy_busy=self._policy.seconds / elapsed,
            model_busy=self._watch.seconds / elapsed,
            training=self.trained / elapsed,
        )

    def play(self, turns: int) -> Transitions:
        """Step all environments so many times; one trajectory follows the other."""
        taken = [self._turn() for _ in range(turns)]
        columns = [np.stack(column, 1) for column in zip(*taken, strict=True)]
        last = columns[6]
        # The critic tells how what is cut here would have gone on.
        last[:, -1] = True
        return Transitions(
            *(column.reshape(-1, *column.shape[2:]) for column in columns)
        )

    def _turn(self) -> tuple[NDArray[Any], ...]:
        seen = self._seen
        actions, logprobs = self._policy(seen)
        following, rewards, terminated, truncated, info = self._envs.step(actions)
        self._seen = following
        done = terminated | truncated
        if done.any():
            following = following.copy()
            for place in np.flatnonzero(done):
                following[place] = info["final_obs"][place]
        self._returns += rewards
        for place in np.flatnonzero(done):
            self._journal.ended(float(self._returns[place]), 0)
            self._returns[place] = 0.0
        self._journal.steps += len(actions)
        versions = np.full(len(actions), self._model.version)
        return (
            seen,
            actions,
            logprobs,
            rewards.astype(np.float32),
            following,
            terminated,
            done,
            versions,
        )

    def _act(self, seen: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        with torch.inference_mode():
            logits, _ = self._watch(torch.from_numpy(seen))
            every = torch.log_softmax(logits, dim=-1)
            chosen: Tensor = torch.multinomial(every.exp(), 1, generator=self._random)
            return chosen[:, 0].numpy(), every.gather(-1, chosen)[:, 0].numpy()
