"""Environments for the floors of rollouts: one that costs nothing, one with a tail.

Served with `openenv-async serve benchmarks.rollout_environment:QuickEnvironment`.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import Any

from openenv_async import Action, EnvClient, Environment, Observation, State

__all__ = [
    "QuickEnv",
    "QuickEnvironment",
    "TailedEnv",
    "TailedEnvironment",
    "WalkAction",
    "WalkObservation",
]

_MEDIAN = 0.005
_P99 = 0.5
_Z99 = 2.3263478740408408
"""The standard normal distribution's 99th percentile."""


class WalkAction(Action):
    """Go somewhere."""

    move: int = 0


class WalkObservation(Observation):
    """Be there."""

    place: int


class QuickEnvironment(Environment[WalkAction, WalkObservation, State]):
    """A walk of a given length; computes next to nothing."""

    name = "quick"

    def __init__(self) -> None:
        self._steps = 0
        self._length = 0
        self._place = 0

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> WalkObservation:
        """Start a walk of `length` steps; without one it never ends."""
        self._steps = self._place = 0
        self._length = (options or {}).get("length", 0)
        return WalkObservation(place=0)

    async def step(self, action: WalkAction) -> WalkObservation:
        """Move."""
        self._steps += 1
        self._place += action.move
        return WalkObservation(
            place=self._place, reward=1.0, terminated=self._steps == self._length
        )

    def state(self) -> State:
        """Count the steps."""
        return State(step_count=self._steps)


class TailedEnvironment(QuickEnvironment):
    """The same with steps that take 5 ms in the median and 500 ms at the 99th percent.

    Their logarithm is distributed normally, as durations of tools and sandboxes are.
    """

    name = "tailed"

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> WalkObservation:
        """Start a walk; its durations depend on the seed."""
        self._random = random.Random(seed)
        return await super().reset(seed=seed, options=options)

    async def step(self, action: WalkAction) -> WalkObservation:
        """Move, which takes its time."""
        sigma = math.log(_P99 / _MEDIAN) / _Z99
        await asyncio.sleep(self._random.lognormvariate(math.log(_MEDIAN), sigma))
        return await super().step(action)


class QuickEnv(EnvClient[WalkAction, WalkObservation, State]):
    """Client of the quick one."""

    environment = "quick"


class TailedEnv(EnvClient[WalkAction, WalkObservation, State]):
    """Client of the one with a tail."""

    environment = "tailed"
