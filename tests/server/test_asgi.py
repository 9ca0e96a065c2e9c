"""The application on a server that is not ours, as any ASGI application."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from openenv_async import StepResult
from openenv_async import messages as m
from tests.clients import ScriptedEnv, asleep, holding
from tests.environments import Command, journal
from tests.serving import decoded, dial, eventually, serving


async def test_a_batch_plays_on_stock_uvicorn() -> None:
    """Episodes on any ASGI server are the same as on ours."""
    async with serving(stock=True) as server:
        async with ScriptedEnv.batch(server.url, size=50, sockets=2) as batch:
            await batch.reset()
            for count in range(1, 11):
                for result in await batch.step([Command(do="sleep")] * 50):
                    assert isinstance(result, StepResult)
                    assert result.observation.count == count
        assert server.sessions == 0


async def test_large_payloads_pass_through_stock_uvicorn() -> None:
    """Chunks need nothing from the server but frames."""
    async with serving(stock=True) as server, ScriptedEnv(server.url) as env:
        await env.reset()
        data = (await env.step(Command(do="array", size=5_000_000))).observation.data
        assert data is not None
        assert data.nbytes == 5_000_000
        await env.step(Command(text="x" * 5_000_000))


async def test_sessions_interleave_on_stock_uvicorn() -> None:
    """A step that waits leaves its connection to the others."""
    async with serving(stock=True) as server:
        async with ScriptedEnv(server.url) as slow, ScriptedEnv(server.url) as fast:
            await slow.reset()
            await fast.reset()
            gate = await holding("stock")
            async with asyncio.TaskGroup() as group:
                group.create_task(slow.step(Command(do="wait", text="stock")))
                await asleep("stock")
                for count in range(1, 11):
                    assert (await fast.step(Command())).observation.count == count
                gate.set()


async def test_json_is_spoken_on_stock_uvicorn() -> None:
    """Text frames work on any server."""
    async with serving(stock=True) as server, dial(server, codec=m.JSON) as peer:
        await peer.open()
        await peer.reset()
        assert decoded(await peer.step(1, 2, text="hi"), m.JSON)["text"] == "hi"


@pytest.mark.parametrize("codec", [m.MSGPACK, m.JSON])
async def test_garbage_ends_the_connection_on_stock_uvicorn(codec: m.Codec) -> None:
    """What cannot be read is answered, then the connection ends with a code."""
    async with serving(stock=True) as server, dial(server, codec=codec) as peer:
        await peer.send_frame(b"{")
        assert (await peer.expect(m.Failure)).code == "invalid_frame"
        assert await peer.close_code() == 1007


async def test_a_silent_client_is_dropped_on_stock_uvicorn() -> None:
    """Heartbeats end a connection on any server."""
    async with serving(stock=True, heartbeat=0.1, lease=0.1) as server:
        async with dial(server) as peer:
            await peer.open()
            await peer.reset()
            await peer.expect(m.Ping)
            await eventually(lambda: server.sessions == 0)


async def test_a_client_that_only_asks_is_not_read_on_stock_uvicorn() -> None:
    """Answers that nobody takes stop at a bound on any server."""
    async with serving(stock=True, heartbeat=60.0) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        peer.socket.transport.pause_reading()
        for seq in range(2, 300):
            await peer.send(m.Step(1, seq, Command(do="array", size=1_000_000)))
            await asyncio.sleep(0.001)
        assert server.core.statistics.requests < 80
        peer.socket.transport.abort()


async def test_environments_are_closed_at_the_end_of_stock_uvicorn() -> None:
    """The application's lifespan closes what is open, and tells clients."""
    async with serving(stock=True) as server, dial(server) as peer:
        await peer.open()
        await peer.reset(episode_id="last")
        await server.core.drain(timeout=1.0)
        await peer.expect(m.Goodbye)
        assert journal[-1] == "closed last"


@pytest.mark.parametrize("stock", [False, True])
async def test_an_application_can_be_mounted(stock: bool) -> None:
    """Under a path of another application everything is where it was."""
    async with serving(stock=stock, mount="/envs", tcp=True, token="t") as server:
        async with ScriptedEnv(server.url, token="t") as env:
            await env.reset()
            assert (await env.step(Command())).observation.count == 1
        base = server.url.replace("ws://", "http://")
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{base}/health")).status_code == 200
            assert (await client.get(f"{base}/schema")).status_code == 401
