"""Servers in this process, without a socket: `memory://name`.

Both sides are the real ones, down to the frame; what is missing is WebSocket framing
and the kernel. Client and server share an event loop. What the frames travel through
can be replaced, which is how faults are injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypeAlias

import anyio

from ._aio import Tasks, shielded
from .client.carriers import Socket, carrying
from .errors import ConnectFailed, LocalProtocolError, Unauthorized
from .server import create_app
from .server.app import EnvironmentLike
from .server.connection import CODECS, DirectLink
from .server.core import ServerCore

__all__ = ["Direction", "Lay", "Line", "MemoryProvider", "MemoryServer"]

Direction = Literal["up", "down"]
"""Towards the server, towards the client."""

Environments: TypeAlias = (
    EnvironmentLike | Sequence[EnvironmentLike] | Mapping[str, EnvironmentLike]
)
"""What `create_app` serves."""

_HIGH_WATER: Final = 1024 * 1024
_LOW_WATER: Final = 256 * 1024
"""Bytes on their way above which a sender is told to wait, and below which to go on."""
_DRAIN: Final = 2.0
"""Seconds for what is in flight when a server stops."""
_STOP_TIMEOUT: Final = 30.0


class Line(Protocol):
    """What frames of one connection travel through, in one direction."""

    def send(self, frame: bytes) -> None:
        """Take a frame, and deliver it now, later, twice or never."""

    def end(self) -> None:
        """The connection is gone: deliver nothing more."""


Lay: TypeAlias = Callable[
    [Direction, Callable[[bytes], None], Callable[[], None]], Line
]
"""Lays a line: takes its direction, what delivers a frame, and what cuts both lines."""


class _Flow:
    """Frames on their way in one direction, in order, as fast as they are wanted."""

    def __init__(
        self, deliver: Callable[[bytes], None], relieved: Callable[[], None]
    ) -> None:
        self._deliver = deliver
        self._relieved = relieved
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._ended = False
        self._finish: Callable[[], None] | None = None
        self.wanted = True
        """Whether the receiver takes frames."""
        self.full = False
        """Whether the sender should wait."""

    def push(self, frame: bytes) -> None:
        """Take a frame; it arrives in a later turn of the loop, never in this one."""
        if self._ended:
            return
        self._frames.append(frame)
        self._size += len(frame)
        self.full = self.full or self._size > _HIGH_WATER
        self.schedule()

    def finish(self, then: Callable[[], None]) -> None:
        """Call back once everything has arrived."""
        self._finish = then
        self.schedule()

    def end(self) -> None:
        """Deliver nothing more."""
        self._ended = True
        self._frames.clear()

    def schedule(self) -> None:
        """Deliver what waits, soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        while self._frames and self.wanted and not self._ended:
            frame = self._frames.popleft()
            self._size -= len(frame)
            self._deliver(frame)
        if self._ended:
            return
        if self.full and self._size < _LOW_WATER:
            self.full = False
            self._relieved()
        if self._finish is not None and not self._frames:
            finish, self._finish = self._finish, None
            finish()


class _Connection:
    """Both ends of one connection.

    It is the server's `DirectSocket`; `client` is the other end.
    """

    def __init__(
        self,
        lay: Lay | None,
        *,
        is_text: bool,
        received: Callable[[bytes], None],
        writable: Callable[[], None],
        lost: Callable[[Socket], None],
    ) -> None:
        self._is_text = is_text
        self._lost = lost
        self._received: Callable[[bytes, bool], None] | None = None
        self._writable: Callable[[], None] | None = None
        self._up = _Flow(self._arrived, writable)
        self._down = _Flow(received, self._relieved)
        self._lines: list[Line] = []
        self.carry_up = self._laid(lay, "up", self._up)
        self._carry_down = self._laid(lay, "down", self._down)
        self.closed = asyncio.Event()
        """Whether the connection is over, for both ends."""
        self.client = _ClientEnd(self, self._up)

    def _laid(
        self, lay: Lay | None, direction: Direction, flow: _Flow
    ) -> Callable[[bytes], None]:
        if lay is None:
            return flow.push
        line = lay(direction, flow.push, self.cut)
        self._lines.append(line)
        return line.send

    def _arrived(self, frame: bytes) -> None:
        if self._received is not None:
            self._received(frame, self._is_text)

    def _relieved(self) -> None:
        if self._writable is not None:
            self._writable()

    def cut(self) -> None:
        """End the connection now: what is on its way is lost."""
        if self.closed.is_set():
            return
        self.closed.set()
        for flow in (self._up, self._down):
            flow.end()
        for line in self._lines:
            line.end()
        # In a later turn, as a socket's loss is noticed.
        asyncio.get_running_loop().call_soon(self._lost, self.client)

    def finish_up(self) -> None:
        """End the connection once the server has what the client sent."""
        self._up.finish(self.cut)

    # The server's end

    @property
    def is_full(self) -> bool:
        """See `DirectSocket.is_full`."""
        return self._down.full

    def tap(
        self, received: Callable[[bytes, bool], None], writable: Callable[[], None]
    ) -> None:
        """See `DirectSocket.tap`."""
        self._received, self._writable = received, writable

    def write(self, frame: bytes, *, is_text: bool) -> None:
        """See `DirectSocket.write`."""
        assert is_text is self._is_text
        if not self.closed.is_set():
            self._carry_down(frame)

    def read(self, *, wanted: bool) -> None:
        """See `DirectSocket.read`."""
        self._up.wanted = wanted
        self._up.schedule()

    def abort(self) -> None:
        """See `DirectSocket.abort`."""
        self.cut()

    async def send(self, event: MutableMapping[str, Any]) -> None:
        """ASGI's, for the end of a connection."""
        assert event["type"] == "websocket.close"
        self._down.finish(self.cut)

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI's, for the end of a connection."""
        await self.closed.wait()
        return {"type": "websocket.disconnect", "code": 1006}


class _ClientEnd:
    """A `Socket`: the client's end of a connection."""

    def __init__(self, connection: _Connection, up: _Flow) -> None:
        self._connection = connection
        self._up = up

    @property
    def paused(self) -> bool:
        """See `Socket.paused`."""
        return self._up.full

    @property
    def is_closed(self) -> bool:
        """See `Socket.is_closed`."""
        return self._connection.closed.is_set()

    def send(self, frame: bytes) -> None:
        """See `Socket.send`."""
        if not self._connection.closed.is_set():
            self._connection.carry_up(frame)

    def abort(self) -> None:
        """See `Socket.abort`."""
        self._connection.cut()

    async def aclose(self, timeout: float) -> None:
        """See `Socket.aclose`."""
        connection = self._connection
        connection.finish_up()
        try:
            with anyio.move_on_after(timeout):
                await connection.closed.wait()
        finally:
            connection.cut()


class MemoryServer:
    """A server in this process; use it as an async context manager.

    Building it finds and describes the environments, which may block; starting it
    needs an event loop, which its clients have to be in.

    Args:
        environments: As for `create_app`.
        name: What clients reach it by, `memory://name`; by default one of its own.
        lay: Lays the lines that frames travel through; by default they go straight.
        options: For `create_app`, such as `lease` or `token`.
    """

    def __init__(
        self,
        environments: Environments,
        *,
        name: str | None = None,
        lay: Lay | None = None,
        **options: Any,
    ) -> None:
        # Polling for a peer in the same loop would only keep that peer waiting.
        options.setdefault("spin", 0.0)
        self.app = create_app(environments, **options)
        self.core: ServerCore = self.app.state.core
        self.name = name or secrets.token_hex(4)
        self.url = f"memory://{self.name}"
        self._lay = lay
        self._tasks = Tasks()
        self._connections: set[_Connection] = set()
        self._reachable = contextlib.ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = False
        """Whether it has ended, or is about to."""

    @property
    def sessions(self) -> int:
        """How many sessions it has."""
        return len(self.core.table)

    async def __aenter__(self) -> MemoryServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Become reachable.

        Raises:
            LocalProtocolError: Another server has the name, or it was started before.
        """
        if self._loop is not None:
            raise LocalProtocolError("expected a server that was not started before")
        self._reachable.enter_context(carrying(self.name, self))
        self._loop = asyncio.get_running_loop()
        # Not at the first connection, so that what a test opens is its own.
        self.core.start()

    async def stop(self) -> None:
        """Close every environment and every connection; idempotent.

        Cancelling it does not leave anything behind.
        """
        if not self.stopped:
            self.stopped = True
            await shielded(self._stop(), timeout=_STOP_TIMEOUT)

    async def _stop(self) -> None:
        self._reachable.close()
        await self.core.drain(timeout=_DRAIN)
        for connection in list(self._connections):
            connection.cut()
        await self._tasks.aclose()
        await self.core.aclose()

    async def diagnose(self) -> None:
        """It never ends by itself."""

    def cut(self) -> None:
        """End every connection now, without a goodbye; clients may come back."""
        for connection in list(self._connections):
            connection.cut()

    # The carrier of its clients

    async def open(
        self,
        *,
        subprotocol: str,
        token: str | None,
        is_text: bool,
        received: Callable[[bytes], None],
        writable: Callable[[], None],
        lost: Callable[[Socket], None],
    ) -> Socket:
        """See `Carrier.open`."""
        if asyncio.get_running_loop() is not self._loop:
            raise ConnectFailed(
                f"expected a client in the event loop of {self.url!r}, got another",
                retryable=False,
            )
        core = self.core
        if token is not None and not core.authorize(token):
            raise Unauthorized(f"expected a valid token for {self.url!r}, got another")
        codec = CODECS.get(subprotocol)
        if codec is None:
            raise ConnectFailed(
                f"expected a subprotocol of {list(CODECS)!r}, got {subprotocol!r}",
                retryable=False,
            )
        connection = _Connection(
            self._lay, is_text=is_text, received=received, writable=writable, lost=lost
        )
        link = DirectLink(
            core,
            codec,
            # Without a token, it may still come in `hello` (section 3.4).
            authorized=token is not None or not core.needs_token,
            send=connection.send,
            socket=connection,
        )
        self._connections.add(connection)
        self._tasks.spawn(self._serve(connection, link), "openenv-async-memory")
        return connection.client

    async def _serve(self, connection: _Connection, link: DirectLink) -> None:
        try:
            await link.serve(connection.receive)
        finally:
            connection.cut()
            self._connections.discard(connection)

    async def get(self, path: str, *, token: str | None) -> tuple[int, bytes]:
        """See `Carrier.get`."""
        headers = [(b"host", b"localhost")]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        where, _, query = path.partition("?")
        scope = {
            **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"},
            **{"method": "GET", "scheme": "http", "root_path": "", "headers": headers},
            **{
                "path": where,
                "raw_path": where.encode(),
                "query_string": query.encode(),
            },
            **{"client": None, "server": None, "extensions": {}},
        }
        status, body = 500, b""

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(event: MutableMapping[str, Any]) -> None:
            nonlocal status, body
            status = event.get("status", status)
            body += event.get("body", b"")

        await self.app(scope, receive, send)
        return status, body


class MemoryProvider:
    """Starts servers in this process, for clients that want one of their own.

    Args:
        environments: As for `MemoryServer`.
        options: The same.
    """

    def __init__(self, environments: Environments, **options: Any) -> None:
        self._environments = environments
        self._options = options
        self._servers: list[MemoryServer] = []

    async def start(self) -> MemoryServer:
        """Start one.

        Raises:
            LocalProtocolError: An environment cannot be found or described.
        """
        # Finding environments imports and reads files.
        server = await anyio.to_thread.run_sync(
            lambda: MemoryServer(self._environments, **self._options)
        )
        await server.start()
        self._servers = [each for each in self._servers if not each.stopped]
        self._servers.append(server)
        return server

    async def stop(self) -> None:
        """Stop all that it started; idempotent."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop()
