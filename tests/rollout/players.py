"""Policies and a collector's surroundings for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from openenv_async.client import EnvBatch
from openenv_async.rollout import (
    AgentEnv,
    Collector,
    CollectorOptions,
    Decision,
    Episode,
    EpisodeContext,
    Task,
)
from tests.clients import ScriptedEnv
from tests.environments import Command, Report
from tests.serving import Serving

__all__ = [
    "Acting",
    "Batching",
    "Choose",
    "Playing",
    "ScriptedEpisode",
    "batch_of",
    "collected",
    "collector_of",
    "policies",
    "tasks_of",
]

ScriptedEpisode = Episode[Command, Report]
Choose = Callable[[EpisodeContext, Report], Command | Decision[Command]]
"""What a policy does; may raise."""


def _count(episode: EpisodeContext, observation: Report) -> Command:
    return Command()


class Acting:
    """Acts in one episode at a time."""

    def __init__(self, choose: Choose = _count) -> None:
        self._choose = choose

    async def act(
        self, observation: Report, episode: EpisodeContext
    ) -> Command | Decision[Command]:
        """Choose."""
        return self._choose(episode, observation)


class Batching:
    """Acts in many at once; a failure is that episode's alone."""

    def __init__(self, choose: Choose = _count) -> None:
        self._choose = choose
        self.sizes: list[int] = []

    async def act_batch(
        self, observations: Sequence[Report], episodes: Sequence[EpisodeContext]
    ) -> list[Command | Decision[Command] | Exception]:
        """Choose for each."""
        self.sizes.append(len(observations))
        return [
            self._one(episode, observation)
            for episode, observation in zip(episodes, observations, strict=True)
        ]

    def _one(
        self, episode: EpisodeContext, observation: Report
    ) -> Command | Decision[Command] | Exception:
        try:
            return self._choose(episode, observation)
        except Exception as error:  # noqa: BLE001 (the failure of one episode)
            return error


class Playing:
    """Plays whole episodes."""

    def __init__(self, choose: Choose = _count) -> None:
        self._choose = choose

    async def play(self, env: AgentEnv[Command, Report], task: Task) -> None:
        """Step to the end."""
        assert env.episode.task is task
        result = await env.reset()
        while not env.done:
            result = await env.step(self._choose(env.episode, result.observation))


policies: list[Callable[[Choose], Any]] = [Acting, Batching, Playing]
"""All shapes."""


def tasks_of(count: int, **options: object) -> list[Task]:
    """Tasks that differ in their ids."""
    return [Task(id=f"t{number}", options=options) for number in range(count)]


def batch_of(
    server: Serving, size: int = 4, **options: Any
) -> EnvBatch[Command, Report, Any]:
    """Sessions that are not open yet."""
    return ScriptedEnv.batch(server.url, size=size, **options)


def collector_of(
    server: Serving,
    policy: Any,
    tasks: Any,
    *,
    size: int = 4,
    **options: Any,
) -> Collector[Command, Report]:
    """A collector with a batch of its own."""
    return Collector(batch_of(server, size), policy, tasks, CollectorOptions(**options))


async def collected(
    server: Serving,
    policy: Any,
    tasks: Iterable[Task] | int,
    **options: Any,
) -> list[ScriptedEpisode]:
    """All episodes, as they finish."""
    async with asyncio.timeout(15):
        async with collector_of(server, policy, tasks, **options) as collector:
            return [episode async for episode in collector]
