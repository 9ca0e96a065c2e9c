"""Servers that die in the middle of a run: no episode is lost, none is invented."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import ConnectFailed, LocalProvider, OpenEnvError
from openenv_async.rollout import (
    Collector,
    CollectorOptions,
    EpisodeContext,
    InfrastructureFailure,
    Terminated,
    Truncated,
    collect,
    to_batch,
)
from openenv_async.rollout.adapters import RandomPolicy
from tests.chaos.processes import SCRIPTED, short_folder, started
from tests.clients import ScriptedEnv, connections
from tests.environments import Command, Report
from tests.rollout.players import (
    Acting,
    ScriptedEpisode,
    policies,
    tasks_of,
)
from tests.serving import eventually


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A folder with a short path."""
    context = short_folder()
    yield await anyio.to_thread.run_sync(context.__enter__)
    await anyio.to_thread.run_sync(context.__exit__, None, None, None)


def _slowly(episode: EpisodeContext, observation: Report) -> Command:
    return Command(do="sleep", seconds=0.005, text=episode.id)


def _kill(provider: LocalProvider) -> None:
    for server in provider.servers:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)


def _is_whole(episode: ScriptedEpisode, length: int) -> None:
    """The steps of one environment, from the first to the last."""
    assert episode.outcome == Terminated()
    counts = [step.observation.count for step in episode.steps]
    assert counts == list(range(1, length + 1))
    assert {step.observation.text for step in episode.steps} == {episode.id}
    assert episode.return_ == sum(counts)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("policy", policies)
async def test_a_run_survives_its_server(policy: Any) -> None:
    """A killed server is replaced, and its episodes are run again, each as a whole."""
    provider = LocalProvider(SCRIPTED)
    batch = ScriptedEnv.batch(provider=provider, size=8)
    episodes: list[ScriptedEpisode] = []
    options = CollectorOptions(retries=3, group_size=2)
    async with Collector(
        batch, policy(_slowly), tasks_of(30, length=8), options
    ) as collector:
        async for episode in collector:
            episodes.append(episode)
            if len(episodes) in (5, 30):
                _kill(provider)
    assert len({episode.id for episode in episodes}) == len(episodes) == 60
    for episode in episodes:
        _is_whole(episode, 8)
        for attempt in episode.earlier_attempts:
            assert isinstance(attempt.outcome, InfrastructureFailure)
    retried = [episode for episode in episodes if episode.attempt > 1]
    assert retried
    assert len(retried) <= 16
    assert connections() == 0
    assert provider.servers == ()


@pytest.mark.timeout(60)
async def test_without_retries_the_loss_is_recorded() -> None:
    """The outcome says what happened, and none of them has a return."""
    provider = LocalProvider(SCRIPTED)
    batch = ScriptedEnv.batch(provider=provider, size=4)
    episodes: list[ScriptedEpisode] = []
    async with Collector(batch, Acting(_slowly), tasks_of(12, length=8)) as collector:
        async for episode in collector:
            episodes.append(episode)
            if len(episodes) == 2:
                _kill(provider)
    assert len(episodes) == 12
    lost = [episode for episode in episodes if episode.failed]
    assert 0 < len(lost) <= 4
    for episode in lost:
        outcome = episode.outcome
        assert isinstance(outcome, InfrastructureFailure)
        assert outcome.kind == "session_lost"
        assert episode.return_ is None
    batch_ = to_batch(episodes)
    assert batch_.masked == {"infrastructure_failed: session_lost": len(lost)}


@pytest.mark.timeout(60)
async def test_a_server_that_stays_away_ends_the_run(folder: Path) -> None:
    """After `recovery_timeout` the consumer is told why, behind what there is."""
    async with started(folder) as server:
        batch = ScriptedEnv.batch(
            server.url, size=3, reconnect_timeout=0.3, connect_timeout=0.3
        )
        async with Collector(
            batch,
            Acting(_slowly),
            tasks_of(10_000, length=5),
            CollectorOptions(recovery_timeout=1.5, retries=10),
        ) as collector:
            await anext(collector)
            await anyio.to_thread.run_sync(server.kill)
            with pytest.raises(OpenEnvError):
                async for episode in collector:
                    _is_whole(episode, 5)
            assert collector.statistics().lost == 3


@pytest.mark.timeout(60)
async def test_a_lost_connection_is_told_and_bounded(folder: Path) -> None:
    """Connections are tried for longer than the run waits: it ends in its own time."""
    async with started(folder) as server:
        batch = ScriptedEnv.batch(server.url, size=3, reconnect_timeout=60)
        async with Collector(
            batch,
            Acting(_slowly),
            tasks_of(10_000, length=5),
            CollectorOptions(recovery_timeout=1.0),
        ) as collector:
            await anext(collector)
            await anyio.to_thread.run_sync(server.kill)
            await eventually(lambda: collector.statistics().unreachable == 3)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectFailed, match="again within 1 s") as caught:
                    async for episode in collector:
                        _is_whole(episode, 5)
            assert server.url in str(caught.value)
            state = collector.statistics()
    # Nothing is put down to the environment, and no failure was made of waiting.
    assert set(state.outcomes) == {"terminated"}
    assert state.unreachable_for > 1.0
    assert state.bottleneck is not None
    assert state.bottleneck.bound_by == "connection"
    assert state.time.environment < 0.3 < state.time.wire


@pytest.mark.timeout(60)
async def test_time_without_a_server_is_not_the_environments(folder: Path) -> None:
    """Episodes that fail because their connection is lost waited on the wire."""
    async with started(folder) as server:
        batch = ScriptedEnv.batch(
            server.url, size=3, reconnect_timeout=0.6, connect_timeout=0.3
        )
        async with Collector(
            batch,
            Acting(_slowly),
            tasks_of(10_000, length=5),
            CollectorOptions(recovery_timeout=30),
        ) as collector:
            await anext(collector)
            await anyio.to_thread.run_sync(server.kill)
            async for episode in collector:
                if isinstance(episode.outcome, InfrastructureFailure):
                    break
    assert episode.timing.wire_ns > 0.4e9
    assert episode.timing.environment_ns < 0.4e9
    assert episode.timing.idle_ns < 0.4e9


@pytest.mark.timeout(60)
async def test_a_server_that_comes_back_is_used(folder: Path) -> None:
    """Sessions are opened on the new one as soon as it answers."""
    async with started(folder) as first:
        batch = ScriptedEnv.batch(
            first.url, size=3, reconnect_timeout=0.3, connect_timeout=1.0
        )
        async with Collector(
            batch,
            Acting(_slowly),
            tasks_of(12, length=5),
            CollectorOptions(retries=5),
        ) as collector:
            episodes = [await anext(collector) for _ in range(3)]
            await anyio.to_thread.run_sync(first.kill)
            await eventually(lambda: collector.statistics().lost == 3)
            async with started(folder):
                async with asyncio.timeout(15):
                    episodes += [episode async for episode in collector]
                await batch.aclose()
    assert len({episode.id for episode in episodes}) == 12
    for episode in episodes:
        _is_whole(episode, 5)


@pytest.mark.timeout(60)
async def test_a_package_is_collected_from() -> None:
    """End to end: a server as a subprocess, an installed environment, no code."""
    batch = EchoEnv.batch(provider=EchoEnv.provider(), size=16)
    runs = []
    for _ in range(2):
        episodes = [
            episode
            async for episode in collect(
                batch, RandomPolicy(EchoAction), 20, max_steps=4, group_size=2, seed=5
            )
        ]
        assert len(episodes) == 40
        for episode in episodes:
            assert episode.environment == "echo_env"
            assert episode.outcome == Truncated(reason="max_steps")
            for step in episode.steps:
                assert step.observation.echoed_message == step.action.message
        runs.append(
            {
                episode.id: [step.action.message for step in episode.steps]
                for episode in episodes
            }
        )
    assert runs[0] == runs[1]
