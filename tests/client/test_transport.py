"""The WebSocket itself: handshakes at both ends of its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import messages as m
from openenv_async.client.endpoint import Endpoint
from openenv_async.client.transport import WebSocket, open_websocket
from tests.serving import eventually

_SUBPROTOCOL = Subprotocol(m.MSGPACK.subprotocol)


class _Side:
    """A client's WebSocket and what happened to it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.lost: list[WebSocket] = []
        self.writable = 0

    async def open(self, port: int, **options: Any) -> WebSocket:
        arguments: dict[str, Any] = {
            "subprotocol": _SUBPROTOCOL,
            "token": None,
            "is_text": False,
            "max_size": 1 << 20,
            "received": self.frames.append,
            "writable": self._resumed,
            "lost": self.lost.append,
        }
        endpoint = Endpoint.parse(f"ws://127.0.0.1:{port}")
        socket = await open_websocket(endpoint, **(arguments | options))
        assert isinstance(socket, WebSocket)
        return socket

    def _resumed(self) -> None:
        self.writable += 1


class _Server:
    """A websockets server, for the other end."""

    def __init__(self) -> None:
        self.port = 0
        self.behave: Callable[[ServerConnection], Awaitable[None]] = self._echo
        self.close_codes: list[int | None] = []
        self.headers: list[Any] = []
        self.open = 0

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.headers.append(connection.request.headers)
        self.open += 1
        try:
            await self.behave(connection)
        finally:
            self.open -= 1
            await connection.close()
            self.close_codes.append(connection.close_code)

    async def _echo(self, connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)


@pytest.fixture
async def server() -> AsyncIterator[_Server]:
    """Echoes messages until told otherwise."""
    running = _Server()
    async with serve(
        running.handle,
        "127.0.0.1",
        0,
        subprotocols=[_SUBPROTOCOL],
        compression=None,
        ping_interval=None,
        max_size=None,
    ) as listener:
        running.port = next(iter(listener.sockets)).getsockname()[1]
        yield running


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1 << 20])
async def test_messages_travel_whole(server: _Server, size: int) -> None:
    """Whatever its size, a message comes back as it went."""
    side = _Side()
    socket = await side.open(server.port)
    socket.send(bytes(size))
    await eventually(lambda: side.frames)
    assert side.frames == [bytes(size)]
    await socket.aclose(1.0)


async def test_fragments_are_put_together(server: _Server) -> None:
    """A message in several frames is one message."""

    async def fragment(connection: ServerConnection) -> None:
        await connection.send([b"a", b"b", b"", b"c"])
        await connection.send(b"d")
        await connection.wait_closed()

    server.behave = fragment
    side = _Side()
    socket = await side.open(server.port)
    await eventually(lambda: len(side.frames) == 2)
    assert side.frames == [b"abc", b"d"]
    await socket.aclose(1.0)


async def test_closing_is_a_handshake(server: _Server) -> None:
    """The server sees code 1000, and `lost` is called once, with the socket."""
    side = _Side()
    socket = await side.open(server.port)
    await socket.aclose(5.0)
    assert socket.is_closed
    assert side.lost == [socket]
    await eventually(lambda: server.close_codes == [1000])
    await socket.aclose(5.0)
    socket.send(b"into the void")
    assert side.lost == [socket]


async def test_closing_does_not_wait_for_a_server_that_is_silent() -> None:
    """A server that answers no close loses its socket after the timeout."""
    release = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def handshake(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers.append(writer)
        framing = _server_framing()
        framing.receive_data(await reader.readuntil(b"\r\n\r\n"))
        (request,) = framing.events_received()
        framing.send_response(framing.accept(request))
        writer.write(b"".join(framing.data_to_send()))
        await release.wait()
        writer.close()

    listener = await asyncio.start_server(handshake, "127.0.0.1", 0)
    side = _Side()
    try:
        socket = await side.open(listener.sockets[0].getsockname()[1])
        await socket.aclose(0.02)
        assert socket.is_closed
        assert side.lost == [socket]
    finally:
        release.set()
        listener.close()
        await eventually(lambda: all(writer.is_closing() for writer in writers))
        await asyncio.sleep(0.01)


def _server_framing() -> Any:
    from websockets.server import ServerProtocol  # noqa: PLC0415 (only here)

    return ServerProtocol(subprotocols=[_SUBPROTOCOL])


async def test_a_cancelled_close_drops_the_socket(server: _Server) -> None:
    """Nothing is left of a socket whose closing was cancelled."""

    async def stay(connection: ServerConnection) -> None:
        await connection.wait_closed()

    server.behave = stay
    side = _Side()
    socket = await side.open(server.port)
    async with asyncio.TaskGroup() as group:
        closing = group.create_task(socket.aclose(10.0))
        await asyncio.sleep(0)
        closing.cancel()
    await eventually(lambda: socket.is_closed)
    assert side.lost == [socket]


async def test_the_servers_close_is_answered(server: _Server) -> None:
    """The client takes its part in a closing handshake that the server began."""

    async def leave(connection: ServerConnection) -> None:
        await connection.close(1001, "going away")

    server.behave = leave
    side = _Side()
    socket = await side.open(server.port)
    await eventually(lambda: side.lost)
    assert side.lost == [socket]
    await eventually(lambda: server.close_codes == [1001])


async def test_a_message_above_the_limit_ends_the_connection(server: _Server) -> None:
    """What is larger than agreed is not taken, and the server is told so."""
    codes: list[int | None] = []

    async def shout(connection: ServerConnection) -> None:
        try:
            await connection.send(bytes(1 << 21))
            await connection.recv()
        except ConnectionClosed:
            codes.append(connection.close_code)

    server.behave = shout
    side = _Side()
    await side.open(server.port)
    await eventually(lambda: side.lost)
    await eventually(lambda: codes == [1009])
    assert side.frames == []


async def test_a_full_kernel_pauses_and_resumes(server: _Server) -> None:
    """`paused` says when to wait, and `writable` is called when that is over."""
    proceed = asyncio.Event()
    sizes: list[int] = []

    async def read_later(connection: ServerConnection) -> None:
        await proceed.wait()
        async for message in connection:
            sizes.append(len(message))

    server.behave = read_later
    side = _Side()
    socket = await side.open(server.port)
    for _ in range(64):
        socket.send(bytes(1 << 20))
        if socket.paused:
            break
    assert socket.paused
    assert side.writable == 0
    proceed.set()
    await eventually(lambda: side.writable)
    assert not socket.paused
    await socket.aclose(5.0)
    assert set(sizes) == {1 << 20}


async def test_the_handshake_carries_the_token(server: _Server) -> None:
    """The token is a header, not a part of the address."""
    side = _Side()
    socket = await side.open(server.port, token="secret")
    await socket.aclose(1.0)
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.headers[0]["User-Agent"] == "openenv-async"


async def test_pings_are_answered(server: _Server) -> None:
    """A proxy that asks whether somebody is there gets its answer."""
    answered = asyncio.Event()

    async def ping(connection: ServerConnection) -> None:
        await (await connection.ping(b"?"))
        answered.set()
        await connection.wait_closed()

    server.behave = ping
    side = _Side()
    socket = await side.open(server.port)
    async with asyncio.timeout(5):
        await answered.wait()
    assert side.frames == []
    await socket.aclose(1.0)
