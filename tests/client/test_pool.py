"""Connections: how many there are, how long they live, how they fail to come up."""

from __future__ import annotations

import asyncio
import re
from time import perf_counter

import pytest

from openenv_async import (
    AtCapacity,
    ConnectFailed,
    LocalProtocolError,
    OpenEnvError,
    RemoteProtocolError,
    ServerObserver,
    Unauthorized,
)
from openenv_async._aio import SPIN_WINDOW
from openenv_async.client.connection import Connection, ConnectionOptions
from openenv_async.client.endpoint import Endpoint
from openenv_async.client.pool import Pool, _pools, pool_of
from openenv_async.providers import FixedServer
from tests.clients import ScriptedEnv, connections
from tests.environments import Command
from tests.fakes import answering
from tests.serving import Serving, eventually, serving


def _pool(url: str, *, spin: float = SPIN_WINDOW) -> Pool:
    return pool_of(FixedServer(url), ConnectionOptions(spin=spin))


# How many


async def test_sessions_share_a_connection_until_the_last_one_leaves() -> None:
    """The first session connects, the others join it, the last one closes."""
    async with serving() as server:
        first, second = ScriptedEnv(server.url), ScriptedEnv(server.url)
        await first.open()
        await second.open()
        assert len(server.core.links) == connections() == 1
        await first.aclose()
        assert len(server.core.links) == connections() == 1
        await second.reset()
        await second.aclose()
        assert connections() == 0
        await eventually(lambda: not server.core.links)


async def test_a_second_socket_comes_with_many_sessions() -> None:
    """127 sessions have one socket; the next one opens a second."""
    async with (
        serving() as server,
        ScriptedEnv.batch(server.url, size=127),
    ):
        assert connections() == 1
        async with ScriptedEnv(server.url) as env:
            assert connections() == len(server.core.links) == 2
            await env.reset()
        assert connections() == 1


async def test_what_was_not_taken_is_not_kept() -> None:
    """More sockets than sessions leave no connection behind that nobody closes."""
    async with (
        serving() as server,
        ScriptedEnv.batch(server.url, size=1, sockets=4),
        ScriptedEnv(server.url),
    ):
        assert connections() == len(server.core.links) == 1


async def test_options_that_differ_need_connections_of_their_own() -> None:
    """A token belongs to the socket, so another one opens another socket."""
    async with (
        serving() as server,
        ScriptedEnv(server.url),
        ScriptedEnv(server.url, token="a"),
        ScriptedEnv(server.url, token="b"),
        ScriptedEnv(server.url, token="b"),
        ServerObserver(server.url),
    ):
        assert connections() == len(server.core.links) == 3


async def test_two_loops_never_share() -> None:
    """Connections belong to their loop."""

    async def in_another_loop() -> Pool:
        return _pool("ws://localhost")

    here = _pool("ws://localhost")
    assert _pool("ws://localhost") is here
    there = await asyncio.to_thread(asyncio.run, in_another_loop())
    assert there is not here


async def test_pools_of_finished_loops_are_forgotten() -> None:
    """A loop that is gone takes its pools with it."""

    async def nothing() -> None:
        _pool("ws://localhost")

    before = len(_pools)
    await asyncio.to_thread(asyncio.run, nothing())
    assert len(_pools) <= before + 1


# Failing


async def test_nobody_listens() -> None:
    """A port and a Unix socket without a listener are `ConnectFailed`."""
    for url in ("ws://127.0.0.1:1", "ws+unix:///nonexistent/socket"):
        with pytest.raises(ConnectFailed, match=re.escape(url)) as caught:
            await ScriptedEnv(url).open()
        assert caught.value.retryable
        assert connections() == 0


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        ("200 OK", ConnectFailed, False),
        ("401 Unauthorized", Unauthorized, False),
        ("403 Forbidden", ConnectFailed, False),
        ("404 Not Found", ConnectFailed, False),
        ("503 Service Unavailable", ConnectFailed, True),
    ],
)
async def test_a_refused_handshake_says_why(
    status: str, kind: type[OpenEnvError], retryable: bool
) -> None:
    """Status and body are in the text; only some are worth another attempt."""
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nnope".encode()
    async with answering(answer) as url:
        with pytest.raises(kind, match=rf"HTTP {status[:3]}: nope") as caught:
            await ScriptedEnv(url).open()
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert connections() == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
    ],
)
async def test_what_is_no_websocket_is_an_error(answer: bytes) -> None:
    """Other protocols and broken handshakes are `ConnectFailed`."""
    async with answering(answer) as url:
        with pytest.raises(ConnectFailed, match="expected a WebSocket"):
            await ScriptedEnv(url).open()
    assert connections() == 0


async def test_a_silent_listener_is_given_up() -> None:
    """Whoever accepts and says nothing costs `connect_timeout`, not more."""
    async with answering(None) as url:
        began = perf_counter()
        with pytest.raises(ConnectFailed, match=r"within 0\.05 s"):
            await ScriptedEnv(url, connect_timeout=0.05).open()
        assert 0.04 < perf_counter() - began < 2.0
    assert connections() == 0


async def test_all_who_wait_are_told() -> None:
    """A batch and two sessions on one connection fail alike, with own exceptions."""
    async with answering(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n") as url:
        errors: list[OpenEnvError] = []

        async def expect() -> None:
            with pytest.raises(Unauthorized) as caught:
                await ScriptedEnv(url).open()
            errors.append(caught.value)

        async with asyncio.TaskGroup() as group:
            group.create_task(expect())
            group.create_task(expect())
        assert len({id(error) for error in errors}) == 2
        with pytest.raises(Unauthorized):
            await ScriptedEnv.batch(url, size=3).open()
    assert connections() == 0


async def test_a_failed_connection_does_not_stay() -> None:
    """The next session after a failure tries anew, and succeeds."""
    async with serving(token="secret") as server:
        for wrong in (None, "wrong"):
            with pytest.raises(Unauthorized):
                await ScriptedEnv(server.url, token=wrong).open()
            assert connections() == 0
        async with ScriptedEnv(server.url, token="secret") as env:
            await env.reset()


async def test_a_wrong_path_is_an_error() -> None:
    """A server of ours that serves nothing at the path is not taken for one."""
    async with serving(tcp=True) as server:
        with pytest.raises(ConnectFailed, match="HTTP 40"):
            await ScriptedEnv(f"{server.url}/elsewhere").open()
    assert connections() == 0


async def test_a_server_that_talks_nonsense_is_a_protocol_error() -> None:
    """Bytes that are no frame end the connection with a typed error."""
    async with serving() as server:
        async with ScriptedEnv(server.url) as env:
            await env.reset()
            (connection,) = await _pool(server.url).acquire(1, sockets=None)
            assert isinstance(connection, Connection)
            connection._received(b"\xc1")
            assert isinstance(connection.error, RemoteProtocolError)
            with pytest.raises(OpenEnvError) as caught:
                await env.step(Command())
            assert caught.value.code == "session_lost"
            await _pool(server.url).release([connection])
        assert connections() == 0


async def test_closing_a_connection_twice_is_harmless() -> None:
    """`aclose` is idempotent and makes the connection useless."""
    async with serving() as server:
        connection = Connection(Endpoint.parse(server.url), ConnectionOptions())
        connection.acquire()
        await connection.wait_greeted()
        for _ in range(2):
            await connection.aclose()
        with pytest.raises(ConnectFailed, match="closed"):
            await connection.wait_greeted()
        await eventually(lambda: not server.core.links)


@pytest.mark.parametrize("token", ["tök", "line\nbreak"])
def test_a_token_must_fit_into_a_header(token: str) -> None:
    """What no header can hold is misuse."""
    with pytest.raises(LocalProtocolError, match="printable"):
        ConnectionOptions(token=token)


# Polling


@pytest.mark.parametrize("spin", [0.0, SPIN_WINDOW, 0.001])
async def test_polling_changes_no_result(spin: float) -> None:
    """Steps are the same with and without polling, on both sides."""
    async with (
        serving(spin=spin) as server,
        ScriptedEnv(server.url, spin=spin) as env,
    ):
        await env.reset()
        (connection,) = _pool(server.url, spin=spin)._connections
        assert isinstance(connection, Connection)
        assert connection._spinner._window_ns in (0, int(spin * 1e9))
        for count in range(1, 50):
            assert (await env.step(Command())).observation.count == count


async def test_a_full_server_does_not_hold_the_connection() -> None:
    """A session that found no room gives its connection back."""
    async with serving(max_sessions=1) as server, ScriptedEnv(server.url):
        with pytest.raises(AtCapacity):
            await ScriptedEnv(server.url).open()
        assert _users(server) == 1


def _users(server: Serving) -> int:
    return sum(connection.users for connection in _pool(server.url)._connections)
