"""Connections that are refused, never greeted, swallowed, or come back too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from openenv_async import (
    ConnectFailed,
    SessionLost,
)
from openenv_async import messages as m
from openenv_async.client.connection import Connection
from tests.chaos.cutter import Cutter, cut_off
from tests.clients import ScriptedEnv, connections
from tests.environments import Command, executions, journal
from tests.serving import Serving, eventually, serving


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server that has no session left at the end of the test."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


@pytest.fixture
async def proxy(server: Serving) -> AsyncIterator[Cutter]:
    """A proxy in front of the server."""
    async with cut_off(server) as between:
        yield between


def connection_of(env: ScriptedEnv) -> Connection:
    """The connection of an open session."""
    assert isinstance(env._connection, Connection)
    return env._connection


async def _reconnected(env: ScriptedEnv, times: int) -> None:
    await eventually(lambda: connection_of(env).reconnects == times)


@pytest.mark.parametrize("size", [0, 10, 150, 400, 520, 560, 600])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_opening_survives_a_cut_once_the_server_has_greeted(
    proxy: Cutter, size: int, direction: str
) -> None:
    """A cut before the greeting is ConnectFailed; one after it opens one session."""
    proxy.cut_after("up" if direction == "up" else "down", max(1, size))
    env = ScriptedEnv(proxy.url)
    try:
        await env.open()
    except ConnectFailed:
        await ScriptedEnv.open(env)
    await env.reset(episode_id="opened")
    assert (await env.step(Command())).observation.count == 1
    await env.aclose()
    assert journal.count("closed opened") == 1


async def test_a_cut_while_nothing_runs_is_not_noticed(proxy: Cutter) -> None:
    """An idle session is resumed in the background."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        for count in range(1, 4):
            proxy.cut()
            await _reconnected(env, count)
            assert (await env.step(Command())).observation.count == count


async def test_a_server_that_refuses_for_a_while_is_found_again(proxy: Cutter) -> None:
    """Connections that end at once are tried again, one at a time, with pauses."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(0.4)
        tried = proxy.accepted
        assert tried < 40
        proxy.refuse(refusing=False)
        assert (await env.step(Command())).observation.count == 1


async def test_a_server_that_stays_away_is_a_typed_loss(
    proxy: Cutter, server: Serving
) -> None:
    """After reconnect_timeout the step says that nobody knows whether it ran."""
    async with ScriptedEnv(proxy.url, reconnect_timeout=0.3, lease=0.5) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        with pytest.raises(SessionLost) as caught:
            await env.step(Command())
        assert caught.value.executed == "unknown"
        with pytest.raises(SessionLost) as caught:
            await env.step(Command())
        assert caught.value.executed == "no"
        assert not env.is_open
    await eventually(lambda: server.sessions == 0)


async def test_a_server_that_greets_nobody_is_a_typed_loss(proxy: Cutter) -> None:
    """Connections that open but never get a greeting do not count as connected."""
    env = ScriptedEnv(proxy.url, reconnect_timeout=0.5, connect_timeout=0.2, lease=1.0)
    async with env:
        await env.reset()
        proxy.stall("down")
        proxy.cut()
        with pytest.raises(SessionLost):
            await env.step(Command())
        proxy.resume()


async def test_a_lease_that_ran_out_is_a_typed_loss(
    proxy: Cutter, server: Serving
) -> None:
    """Who comes back too late is told; there is no fresh environment in its place."""
    async with ScriptedEnv(proxy.url, lease=0.05) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: server.sessions == 0)
        proxy.refuse(refusing=False)
        with pytest.raises(SessionLost):
            await env.step(Command(text="late"))
        assert executions["late"] == 0
        assert journal.count("built") == 1


async def test_an_evicted_reply_is_a_typed_loss() -> None:
    """When the kept reply had to go, the step says that it was executed."""
    async with serving(kept_bytes=10_000) as server, cut_off(server) as proxy:
        async with ScriptedEnv(proxy.url) as env:
            await env.reset()
            proxy.cut_after("down", 5_000)
            with pytest.raises(Exception, match="no longer kept") as caught:
                await env.step(Command(do="array", size=50_000, text="evicted"))
            assert getattr(caught.value, "executed", "") == "yes"
            assert executions["evicted"] == 1
            await env.reset()


async def test_ready_sees_no_result_that_was_not_asked_for(
    proxy: Cutter, server: Serving
) -> None:
    """Sessions that end or resume while nothing is posted bring no arrival."""
    async with ScriptedEnv.batch(proxy.url, size=2, lease=0.05) as batch:
        proxy.cut()
        await batch.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: server.sessions == 0)
        proxy.refuse(refusing=False)
        await eventually(lambda: all(slot.session.ended for slot in batch._slots))
        assert [ready async for ready in batch.ready()] == []


async def test_a_heartbeat_notices_a_network_that_swallows(
    proxy: Cutter, server: Serving
) -> None:
    """A connection that carries nothing any more is dropped and made anew."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        connection = connection_of(env)
        connection.protocol.limits = m.Limits(heartbeat=0.1)
        proxy.stall("up")
        proxy.stall("down")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="swallowed")))
            await eventually(lambda: connection._socket is None)
            proxy.cut()
            proxy.resume()
        assert step.result().observation.count == 1
        assert executions["swallowed"] == 1
        assert server.sessions == 1
