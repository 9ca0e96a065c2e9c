"""A fleet of real servers: what dies costs its own sessions, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import anyio
import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import LocalProvider, LocalServer, SessionLost
from openenv_async.client import Failure
from openenv_async.providers.fleet import Fleet, FleetSettings
from tests.chaos.processes import is_alive
from tests.serving import eventually

pytestmark = pytest.mark.timeout(60)

_WATCHFUL = FleetSettings(health_interval=0.2, health_timeout=0.5, freshness=0)


def _fleet(provider: LocalProvider, *, sessions: int = 16, warm: int = 0) -> Fleet:
    return Fleet(
        provider,
        replicas=4,
        sessions_per_replica=sessions,
        warm=warm,
        settings=_WATCHFUL,
    )


def _pids(provider: LocalProvider) -> list[int]:
    pids = [server.pid for server in provider.servers]
    return [pid for pid in pids if pid is not None]


def _kill_first(fleet: Fleet) -> None:
    """Kill the server on which a batch has its first sessions."""
    first = next(one for one in fleet.replicas if one.state == "serving")
    assert isinstance(first.server, LocalServer)
    assert first.server.pid is not None
    os.kill(first.server.pid, signal.SIGKILL)


async def _alive(pids: Sequence[int]) -> bool:
    return await anyio.to_thread.run_sync(lambda: any(map(is_alive, pids)))


def _actions(count: int) -> list[EchoAction]:
    return [EchoAction(message=str(number)) for number in range(count)]


@pytest.mark.slow
async def test_batch_survives_the_death_of_a_replica() -> None:
    """Sixteen of 64 sessions are lost, typed; the others go on, and all reset again."""
    provider = EchoEnv.provider()
    async with _fleet(provider) as fleet:
        pids = _pids(provider)
        async with EchoEnv.batch(size=64, provider=fleet) as batch:
            await batch.reset()
            _kill_first(fleet)
            results = await batch.step(_actions(64))
            lost = [n for n, one in enumerate(results) if isinstance(one, Failure)]
            assert lost == list(range(16))
            for number in lost:
                failure = results[number]
                assert isinstance(failure, Failure)
                assert isinstance(failure.error, SessionLost)
                assert failure.error.executed in ("no", "unknown")
                assert failure.error.detail["exit_code"] == -signal.SIGKILL
            assert fleet.statistics().deaths == {"signal 9": 1}
            kept = [n for n in range(64) if n not in lost]
            again = await batch.step(_actions(48), indices=kept)
            assert not any(isinstance(one, Failure) for one in again)
            fresh = await batch.reset()
            assert not any(isinstance(one, Failure) for one in fresh)
            results = await batch.step(_actions(64))
            assert not any(isinstance(one, Failure) for one in results)
            assert [one.sessions for one in fleet.statistics().servers] == [16] * 4
            pids += _pids(provider)
        assert fleet.statistics().sessions == 0
    assert not await _alive(pids)
    assert provider.servers == ()


@pytest.mark.slow
async def test_warm_spare_takes_the_sessions_of_a_dead_replica_at_once() -> None:
    """With a spare, the reset of lost sessions waits for no start."""
    provider = EchoEnv.provider()
    async with _fleet(provider, sessions=4, warm=1) as fleet:
        await eventually(lambda: fleet.statistics().replicas["spare"] == 1)
        pids = _pids(provider)
        async with EchoEnv.batch(size=16, provider=fleet) as batch:
            await batch.reset()
            _kill_first(fleet)
            results = await batch.step(_actions(16))
            lost = [n for n, one in enumerate(results) if isinstance(one, Failure)]
            assert lost == [0, 1, 2, 3]
            began = time.perf_counter()
            fresh = await batch.reset(indices=lost)
            took = time.perf_counter() - began
            assert not any(isinstance(one, Failure) for one in fresh)
            starts = fleet.statistics().start_seconds
            assert took < starts.p50
    assert not await _alive(pids)


@pytest.mark.slow
async def test_server_that_hangs_is_given_up_and_harms_no_other() -> None:
    """A frozen process is found out; the others are placed on meanwhile."""
    provider = EchoEnv.provider()
    async with _fleet(provider, warm=1) as fleet:
        await eventually(lambda: fleet.statistics().replicas["spare"] == 1)
        pids = _pids(provider)
        os.kill(pids[2], signal.SIGSTOP)
        try:
            async with EchoEnv.batch(size=48, provider=fleet) as batch:
                results = await batch.reset()
                assert not any(isinstance(one, Failure) for one in results)
                await eventually(lambda: fleet.statistics().deaths == {"unhealthy": 1})
                results = await batch.step(_actions(48))
                assert not any(isinstance(one, Failure) for one in results)
        finally:
            # So that it heeds the signal by which it is told to end.
            os.kill(pids[2], signal.SIGCONT)
    assert not await _alive(pids)


@pytest.mark.slow
async def test_clients_share_a_fleet() -> None:
    """Single sessions and batches of different tasks are spread over all servers."""
    provider = EchoEnv.provider()
    async with _fleet(provider, sessions=4) as fleet:

        async def episode(number: int) -> None:
            async with EchoEnv(provider=fleet) as env:
                await env.reset()
                result = await env.step(EchoAction(message=str(number)))
                assert result.observation.echoed_message == str(number)

        async with EchoEnv.batch(size=8, provider=fleet) as batch:
            await batch.reset()
            async with anyio.create_task_group() as group:
                # More than there is room for: they wait for each other.
                for number in range(24):
                    group.start_soon(episode, number)
            statistics = fleet.statistics()
            assert [one.sessions for one in statistics.servers] == [2] * 4
            assert statistics.placed == 32
            assert statistics.refused == 0


@pytest.mark.slow
async def test_rolling_replaces_all_servers_under_load() -> None:
    """Every process is another one afterwards, and no session was lost."""
    provider = EchoEnv.provider()
    async with _fleet(provider, sessions=4) as fleet:
        before = set(_pids(provider))
        is_rolling = True
        episodes = 0

        async def play() -> None:
            nonlocal episodes
            while is_rolling:
                async with EchoEnv(provider=fleet) as env:
                    await env.reset()
                    await env.step(EchoAction(message="on"))
                    episodes += 1

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(play)
            await fleet.roll(timeout=10)
            is_rolling = False
        assert episodes > 4
        await eventually(lambda: fleet.statistics().replicas["serving"] == 4)
        assert before.isdisjoint(_pids(provider))
        assert fleet.statistics().deaths == {}


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
async def test_cancelling_the_opening_ends_every_process(delay: float) -> None:
    """Nothing that was started is left, however far it came."""
    provider = EchoEnv.provider()
    fleet = _fleet(provider)
    opening = asyncio.ensure_future(fleet.open())  # noqa: TID251 (cancelled below)
    await asyncio.sleep(delay)
    pids = _pids(provider)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert provider.servers == ()
    assert not await _alive(pids)
