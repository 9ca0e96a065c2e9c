"""Real servers inside of a test, and a raw client to talk to them.

`serving` runs the application on uvicorn in the test's own event loop, so that its
guards watch the server too. `dial` opens a WebSocket and speaks the protocol message
by message, well-formed or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import messages as m
from openenv_async.environment import Environment, EnvironmentSpec
from openenv_async.server import bind_tcp, bind_unix, create_app
from openenv_async.server.core import ServerCore
from openenv_async.server.run import make_server

from . import environments

__all__ = [
    "Peer",
    "Serving",
    "decoded",
    "dial",
    "eventually",
    "payload_of",
    "serving",
]

PATIENCE = 8.0
"""Seconds after which what a test waits for counts as not coming."""

MessageT = TypeVar("MessageT", bound=m.Message)

EnvironmentLike = type[Environment[Any, Any, Any]] | EnvironmentSpec | str


@dataclasses.dataclass(frozen=True)
class Serving:
    """A server that runs."""

    url: str
    core: ServerCore
    path: Path | None = None
    """Its Unix socket."""
    port: int = 0

    @property
    def sessions(self) -> int:
        """How many sessions the server has."""
        return len(self.core.table)


@contextlib.asynccontextmanager
async def serving(
    *served: EnvironmentLike,
    tcp: bool = False,
    path: Path | None = None,
    drain: float = 1.0,
    stock: bool = False,
    mount: str = "",
    **options: Any,
) -> AsyncIterator[Serving]:
    """Serve environments on a Unix socket, or on a free port of the loopback.

    Args:
        served: What to serve; by default a `ScriptedEnvironment`.
        tcp: Whether to serve over TCP.
        path: Where to put the socket; by default a folder of its own.
        drain: Seconds for what is in flight at the end.
        stock: Whether to run it on uvicorn as it is, like any ASGI application.
        mount: A path to mount it under, in another application.
        options: For `create_app`.
    """
    environments.journal.clear()
    environments.executions.clear()
    app = await anyio.to_thread.run_sync(
        lambda: create_app(served or (environments.ScriptedEnvironment,), **options)
    )
    core: ServerCore = app.state.core
    folder: str | None = None
    if tcp:
        bound = bind_tcp("127.0.0.1", 0)
    else:
        if path is None:
            folder = await anyio.to_thread.run_sync(tempfile.mkdtemp)
            path = Path(folder) / "s"
        bound = await anyio.to_thread.run_sync(bind_unix, path)
    if mount:
        app = Starlette(
            routes=[Mount(mount, app)], lifespan=app.router.lifespan_context
        )
        app.state.core = core
    if stock:
        config = uvicorn.Config(app, ws="websockets-sansio", log_level="warning")
        server = uvicorn.Server(config)
    else:
        server = make_server(app, drain=drain)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[bound])
    port = bound.getsockname()[1] if tcp else 0
    url = f"ws://127.0.0.1:{port}{mount}" if tcp else f"ws+unix://{path}"
    try:
        yield Serving(url, core, path, port)
    finally:
        # What uvicorn's own shutdown does, without its pauses of a tenth of a second.
        for listener in server.servers:
            listener.close()
        await core.drain(timeout=drain)
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await eventually(
            lambda: (
                not server.server_state.connections and not server.server_state.tasks
            )
        )
        await server.lifespan.shutdown()
        if path is not None:
            await anyio.to_thread.run_sync(lambda: path.unlink(missing_ok=True))
        if folder is not None:
            await anyio.to_thread.run_sync(shutil.rmtree, folder)


async def eventually(
    condition: Callable[[], object], *, patience: float = PATIENCE
) -> None:
    """Wait until something holds that sets no event; a second look every 2 ms."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.002)


def decoded(message: m.ServerMessage, codec: m.Codec = m.MSGPACK) -> Any:
    """The payload of a reply."""
    assert isinstance(message, m.Reply), message
    return payload_of(message.payload, codec)


def payload_of(payload: object, codec: m.Codec = m.MSGPACK) -> Any:
    """What was encoded into a payload."""
    assert isinstance(payload, msgspec.Raw)
    return codec.generic(payload)


class Peer:
    """A WebSocket that speaks the protocol one message at a time."""

    def __init__(self, socket: ClientConnection, codec: m.Codec) -> None:
        self.socket = socket
        self.codec = codec
        self._waiting: list[m.ServerMessage] = []

    async def send(self, *messages: m.ClientMessage) -> None:
        """Send messages in one frame."""
        frame = self.codec.frame([self.codec.encode(message) for message in messages])
        await self.send_frame(frame)

    async def send_frame(self, frame: bytes) -> None:
        """Send any bytes as a frame of the right kind."""
        await self.socket.send(frame.decode() if self.codec.is_text else frame)

    async def receive(self) -> m.ServerMessage:
        """The next message, whatever it is."""
        while not self._waiting:
            async with asyncio.timeout(PATIENCE):
                frame = await self.socket.recv(decode=False)
            self._waiting = self.codec.from_server.frame(frame)
        return self._waiting.pop(0)

    async def expect(self, kind: type[MessageT]) -> MessageT:
        """The next message, which has to be of a kind."""
        message = await self.receive()
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message!r}"
        return message

    async def close_code(self) -> int | None:
        """Read to the end of the connection; returns the close code."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    frame = await self.socket.recv(decode=False)
                    self._waiting += self.codec.from_server.frame(frame)
        except ConnectionClosed:
            return self.socket.close_code

    async def open(self, handle: int = 1, key: str = "", **fields: Any) -> m.Opened:
        """Open a session."""
        await self.send(m.Open(handle, key or secrets.token_hex(16), **fields))
        return await self.expect(m.Opened)

    async def call(
        self, request: m.Reset | m.Step | m.GetState | m.Close
    ) -> m.ServerMessage:
        """Send a request and get its answer."""
        await self.send(request)
        return await self.receive()

    async def reset(self, handle: int = 1, seq: int = 1, **fields: Any) -> m.Reply:
        """Begin an episode."""
        await self.send(m.Reset(handle, seq, **fields))
        return await self.expect(m.Reply)

    async def step(
        self, handle: int, seq: int, timeout: float | None = None, **fields: Any
    ) -> m.ServerMessage:
        """Perform a `Command`."""
        return await self.call(
            m.Step(handle, seq, environments.Command(**fields), timeout)
        )


@contextlib.asynccontextmanager
async def dial(
    server: Serving,
    *,
    codec: m.Codec = m.MSGPACK,
    hello: bool = True,
    subprotocols: list[str] | None = None,
    host: str = "localhost",
    headers: dict[str, str] | None = None,
    token: str | None = None,
    limits: m.Limits | None = None,
) -> AsyncIterator[Peer]:
    """Open a WebSocket to a server and, unless told otherwise, greet it."""
    offered = [codec.subprotocol] if subprotocols is None else subprotocols
    options: dict[str, Any] = {
        "subprotocols": [Subprotocol(name) for name in offered] or None,
        "additional_headers": headers,
        "compression": None,
        "ping_interval": None,
        "max_size": None,
        "close_timeout": 1,
        "proxy": None,
    }
    if server.path is not None:
        connection = unix_connect(str(server.path), f"ws://{host}/ws", **options)
    else:
        connection = connect(f"{server.url}/ws", **options)
    async with connection as socket:
        peer = Peer(socket, codec)
        if hello:
            await peer.send(m.Hello(m.VERSION, "peer", limits or m.Limits(), token))
            await peer.expect(m.Welcome)
        yield peer
