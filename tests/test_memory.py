"""Servers in this process: both real sides, without a socket between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from openenv_async import (
    ConnectFailed,
    LocalProtocolError,
    SessionLost,
    StepResult,
    Unauthorized,
)
from openenv_async.client.carriers import carrier_of
from openenv_async.client.connection import Connection
from openenv_async.client.endpoint import Endpoint
from openenv_async.client.transport import open_websocket
from openenv_async.memory import Direction, MemoryProvider, MemoryServer
from openenv_async.messages import MSGPACK
from openenv_async.server import run
from tests.clients import ScriptedEnv, connections
from tests.environments import Command, ScriptedEnvironment, journal
from tests.serving import eventually

_MEGABYTE = 1024 * 1024


def _make(**options: Any) -> MemoryServer:
    journal.clear()
    return MemoryServer(ScriptedEnvironment, **options)


@pytest.fixture
async def server() -> AsyncIterator[MemoryServer]:
    """A server that runs."""
    async with _make() as server:
        yield server


async def test_a_session_steps_and_closes(server: MemoryServer) -> None:
    """reset, step, state and close reach the environment and come back."""
    async with ScriptedEnv(server.url) as env:
        await env.reset(episode_id="one")
        assert (await env.step(Command(text="a"))).observation.count == 1
        assert (await env.state()).step_count == 1
        assert server.sessions == 1
    assert server.sessions == 0
    assert connections() == 0
    assert journal == ["built", "reset one", "closed one"]


async def test_a_batch_has_two_connections(server: MemoryServer) -> None:
    """A batch spreads over connections as over sockets."""
    async with ScriptedEnv.batch(server.url, size=256) as envs:
        await envs.reset()
        results = await envs.step([Command(text=str(place)) for place in range(256)])
        assert [
            result.observation.text
            for result in results
            if isinstance(result, StepResult)
        ] == [str(place) for place in range(256)]
        assert len(server.core.links) == 2


async def test_no_socket_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side opens a socket, and no web server runs."""
    for name in ("create_connection", "create_unix_connection", "create_server"):
        monkeypatch.setattr(asyncio.BaseEventLoop, name, None)
    monkeypatch.setattr(run, "make_server", None)
    async with _make() as server, ScriptedEnv(server.url) as env:
        await env.reset()


async def test_a_cut_loses_no_step(server: MemoryServer) -> None:
    """A connection that ends is made again, and the step goes on where it was."""
    async with ScriptedEnv(server.url) as env, asyncio.TaskGroup() as group:
        await env.reset()
        running = group.create_task(env.step(Command(do="sleep", seconds=0.05)))
        await asyncio.sleep(0.01)
        server.cut()
        assert (await running).observation.count == 1
        assert isinstance(env._connection, Connection)
        assert env._connection.reconnects == 1


async def test_large_arrays_press_back(server: MemoryServer) -> None:
    """More than what may be on its way waits, and arrives all the same."""
    async with ScriptedEnv.batch(server.url, size=8, sockets=1) as envs:
        await envs.reset()
        large = [Command(do="array", size=2 * _MEGABYTE)] * 8
        for result in await envs.step(large):
            assert isinstance(result, StepResult)
            assert result.observation.data is not None
            assert result.observation.data.nbytes == 2 * _MEGABYTE


async def test_a_stopped_server_is_gone() -> None:
    """Sessions learn it, nobody can connect any more, and stop() is idempotent."""
    async with _make() as server:
        async with ScriptedEnv(server.url, reconnect_timeout=0.1) as env:
            await env.reset()
            await server.stop()
            with pytest.raises(SessionLost):
                await env.step(Command())
        assert journal[-1] == "closed None"
        with pytest.raises(ConnectFailed, match=r"got one of \[\]"):
            await ScriptedEnv(server.url).open()
        await server.stop()


async def test_stopping_is_complete_when_cancelled() -> None:
    """A cancelled stop() still closes environments."""
    server = _make()
    await server.start()
    async with ScriptedEnv(server.url, reconnect_timeout=0.05) as env:
        await env.reset()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await server.stop()
        assert journal[-1] == "closed None"


async def test_a_name_is_one_server_s() -> None:
    """Two servers cannot have the same name, and one is not started twice."""
    async with _make(name="here") as server:
        assert server.url == "memory://here"
        for name in ("here", "a/b"):
            with pytest.raises(LocalProtocolError, match=f"'{name}'"):
                await _make(name=name).start()
        with pytest.raises(LocalProtocolError, match="not started"):
            await server.start()


def test_addresses_in_memory_are_parsed() -> None:
    """A name is all that they have."""
    assert Endpoint.parse("memory://here").memory == "here"
    assert not Endpoint.parse("ws://here").memory
    for wrong in ("memory://", "memory:here", "memory://a/b", "memory://a?x=1"):
        with pytest.raises(LocalProtocolError, match="got"):
            Endpoint.parse(wrong)


async def test_tokens_are_checked() -> None:
    """A wrong token is refused, a missing one as well, the right one comes in."""
    async with _make(token="sesame") as server:
        for token in (None, "open"):
            with pytest.raises(Unauthorized):
                await ScriptedEnv(server.url, token=token).open()
        async with ScriptedEnv(server.url, token="sesame") as env:
            await env.reset()


async def _open(server: MemoryServer, subprotocol: str) -> None:
    await open_websocket(
        Endpoint.parse(server.url),
        subprotocol=subprotocol,
        token=None,
        is_text=False,
        max_size=1024,
        received=lambda _frame: None,
        writable=lambda: None,
        lost=lambda _socket: None,
    )


async def test_an_unknown_subprotocol_is_refused(server: MemoryServer) -> None:
    """The encodings that there are are named."""
    with pytest.raises(ConnectFailed, match="got 'nonsense'"):
        await _open(server, "nonsense")


async def test_another_loop_cannot_connect(server: MemoryServer) -> None:
    """A client in a loop of its own is told so instead of hanging."""

    def connect() -> str:
        with pytest.raises(ConnectFailed) as caught:
            asyncio.run(ScriptedEnv(server.url).open())
        return caught.value.message

    assert "event loop" in await anyio.to_thread.run_sync(connect)


async def test_a_provider_starts_and_stops() -> None:
    """A client's own server in memory lives as long as the client."""
    provider = MemoryProvider("tests.environments:ScriptedEnvironment")
    async with ScriptedEnv(provider=provider) as env:
        await env.reset()
        assert env.server is not None
        url = env.server.url
        assert await env.server.diagnose() is None
        carrier_of(Endpoint.parse(url))
    with pytest.raises(ConnectFailed):
        carrier_of(Endpoint.parse(url))
    await provider.stop()


async def test_a_provider_stops_what_runs() -> None:
    """stop() of the provider stops all of its servers."""
    provider = MemoryProvider(["tests.environments:ScriptedEnvironment"])
    servers = [await provider.start() for _ in range(2)]
    await provider.stop()
    assert all(server.stopped for server in servers)


def test_a_blocking_client_has_its_server_in_its_own_loop() -> None:
    """`sync()` works with a provider in memory, without any async code."""
    provider = MemoryProvider("tests.environments:BlockingEnvironment")
    with ScriptedEnv(provider=provider).sync() as env:
        env.reset()
        assert env.step(Command()).observation.count == 1


class _Recording:
    """A line that passes everything on, and knows that it did."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self.frames = 0
        self.ended = False

    def send(self, frame: bytes) -> None:
        self.frames += 1
        self._deliver(frame)

    def end(self) -> None:
        self.ended = True


async def test_lines_are_laid_for_each_connection() -> None:
    """Each connection asks for two lines, uses them, and ends them."""
    laid: list[tuple[Direction, _Recording]] = []

    def lay(
        direction: Direction,
        deliver: Callable[[bytes], None],
        cut: Callable[[], None],
    ) -> _Recording:
        del cut
        laid.append((direction, _Recording(deliver)))
        return laid[-1][1]

    async with _make(lay=lay) as server, ScriptedEnv(server.url) as env:
        await env.reset()
        server.cut()
        await env.step(Command())
    assert [direction for direction, _ in laid] == ["up", "down"] * 2
    assert all(line.frames and line.ended for _, line in laid)


async def test_a_silent_client_is_ended() -> None:
    """The server's heartbeat ends a connection that says nothing."""
    async with _make(heartbeat=0.05) as server:
        socket_lost = asyncio.Event()
        await open_websocket(
            Endpoint.parse(server.url),
            subprotocol=MSGPACK.subprotocol,
            token=None,
            is_text=False,
            max_size=1024,
            received=lambda _frame: None,
            writable=lambda: None,
            lost=lambda _socket: socket_lost.set(),
        )
        await eventually(socket_lost.is_set)
        assert not server.core.links
