"""One WebSocket of the server: frames on one side, the core on the other.

The task that receives a frame also runs what the frame asks for, as long as no
environment suspends; then another task takes over receiving. Answers are written by
whoever has them. A lone step thus wakes one task, not three.

There are two links. `AsgiLink` works on any ASGI server. `DirectLink` is for our own
(`run.py`), which hands over frames as they come: ASGI's events and uvicorn's queue cost
more than a small frame's contents.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Final, Protocol

from .. import messages as m
from .core import Machine, ServerCore

__all__ = [
    "CODECS",
    "DIRECT",
    "AsgiLink",
    "Connect",
    "DirectLink",
    "DirectSocket",
    "ServedSocket",
]

_logger = logging.getLogger("openenv_async.server")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Connect = Callable[[Callable[[], None]], Machine]
"""Makes a machine; it calls its argument when something waits to be sent."""

CODECS: Final = {m.MSGPACK.subprotocol: m.MSGPACK, m.JSON.subprotocol: m.JSON}
"""The encodings that a client may ask for, by subprotocol."""

DIRECT: Final = "openenv_async.direct"
"""ASGI extension of our own server: a `DirectSocket`."""

_EVENT_DELAY: Final = 0.025
"""Seconds that a watcher's events wait for more of them."""
_BACKLOG: Final = 64
"""Received frames that may wait; then the socket is not read any more."""


class DirectSocket(Protocol):
    """An open WebSocket without ASGI events in between."""

    @property
    def is_full(self) -> bool:
        """Whether the peer takes no more for now."""
        ...

    def tap(
        self,
        received: Callable[[bytes, bool], None],
        writable: Callable[[], None],
    ) -> None:
        """Get frames, with whether they are text, and word when `is_full` ends."""

    def write(self, frame: bytes, *, is_text: bool) -> None:
        """Send a frame; does nothing once the socket has ended."""

    def read(self, *, wanted: bool) -> None:
        """Stop or go on reading."""

    def abort(self) -> None:
        """Drop the socket without waiting for the peer."""


class ServedSocket(DirectSocket, Protocol):
    """A `DirectSocket` of our own server."""

    def limit(self, size: int, *, keepalive: float | None) -> None:
        """Bound messages, in bytes, and ping every `keepalive` seconds, if given."""


class _Link(ABC):
    """What both kinds of link have in common."""

    def __init__(
        self,
        core: ServerCore,
        codec: m.Codec,
        *,
        authorized: bool,
        send: Send,
        connect: Connect | None = None,
    ) -> None:
        self._core = core
        self.protocol: Machine = (
            core.connect(
                codec,
                authorized=authorized,
                wake=self._wake,
                wake_later=self._wake_later,
            )
            if connect is None
            else connect(self._wake)
        )
        self._is_text = codec.is_text
        self._send = send
        self._receiver: asyncio.Task[None] | None = None
        self._relief: asyncio.Future[None] | None = None
        """What the receiver waits for while the peer takes no answers."""
        self._is_closing = False
        self._has_left = False

    @abstractmethod
    def flush(self) -> None:
        """Send what waits, without waiting for the peer."""

    def _wake(self) -> None:
        """Something waits: it is sent once this turn's work is done."""
        self._core.mark(self)  # type: ignore[arg-type]  # subclasses have `abort`, too

    def _wake_later(self) -> None:
        """Something waits that need not be sent in this turn.

        A frame for each event would cost the watched session a system call a step.
        """
        asyncio.get_running_loop().call_later(_EVENT_DELAY, self._wake_late)

    def _wake_late(self) -> None:
        if not self._has_left:
            self._wake()

    # Receiving

    def _hand_over(self) -> None:
        """Let a new task receive; the one that did may stay with an environment."""
        self._receiver = self._core.tasks.spawn(
            self._receive_all(), "openenv-async-receiver"
        )

    @abstractmethod
    async def _receive_all(self) -> None:
        """Take frames and run what they ask for."""

    async def _take(self, data: bytes, *, is_text: bool) -> bool:
        """Take a frame; returns True if this task had to stay with an environment."""
        protocol = self.protocol
        if is_text is not self._is_text:
            protocol.refuse_frame_type()
        elif protocol.close_code is None:
            self._core.receive(protocol, data)
            if await self._core.run(self._hand_over):
                return True
        if protocol.close_code is not None:
            # Perhaps without a message that would wake anybody.
            self._wake()
        return False

    async def _wait_relieved(self) -> None:
        """Read no more from a peer that sends requests but takes no answers."""
        if self.protocol.congested and (
            self._is_stalled() or not self.protocol.pending
        ):
            # Answers wait for the peer, or requests for their answers.
            self._relief = asyncio.get_running_loop().create_future()
            await self._relief
            self._relief = None

    @abstractmethod
    def _is_stalled(self) -> bool:
        """Whether answers wait because of the peer."""

    def _relieve(self, *, always: bool = False) -> None:
        """The peer took something: that is a sign of life, as none of its own is read.

        Args:
            always: The connection is over: the receiver need not wait any more.
        """
        relief = self._relief
        if relief is None or relief.done():
            return
        self.protocol.taken(perf_counter())
        if always or not self.protocol.congested:
            relief.set_result(None)

    def _leave(self) -> None:
        self._has_left = True
        self._core.discard(self)  # type: ignore[arg-type]  # subclasses have `abort`, too
        self._relieve(always=True)
        if self._receiver is not None:
            self._receiver.cancel()

    def _close_event(self) -> dict[str, Any] | None:
        """ASGI's event that ends the connection, once, if it is to end."""
        code = self.protocol.close_code
        if code is None or self._is_closing:
            return None
        self._is_closing = True
        return {"type": "websocket.close", "code": code}


class DirectLink(_Link):
    """A link over a socket of our own server.

    Args:
        core: The server.
        codec: The negotiated encoding.
        authorized: Whether the handshake carried a valid token.
        send: ASGI's, for the end.
        socket: The socket.
        connect: Makes what the connection speaks, if not our own protocol.
    """

    def __init__(
        self,
        core: ServerCore,
        codec: m.Codec,
        *,
        authorized: bool,
        send: Send,
        socket: DirectSocket,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(core, codec, authorized=authorized, send=send, connect=connect)
        self._socket = socket
        self._frames: deque[tuple[bytes, bool]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        socket.tap(self._feed, self._writable)

    async def serve(self, receive: Receive) -> None:
        """Serve the connection until it ends."""
        self._core.add(self)
        self._hand_over()
        try:
            # Frames come the other way; what is left for ASGI is the end.
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._leave()

    def _feed(self, data: bytes, is_text: bool) -> None:  # noqa: FBT001 (a callback)
        self._frames.append((data, is_text))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if len(self._frames) == _BACKLOG:
            self._socket.read(wanted=False)

    async def _receive_all(self) -> None:
        try:
            while not await self._receive_one():
                pass
        except Exception:
            # A bug of ours: whoever is connected comes back and resumes.
            _logger.exception("= %s: the connection is dropped", self.protocol.peer)
            self.abort()

    async def _receive_one(self) -> bool:
        """Take one frame; returns True if somebody else receives from now on."""
        await self._wait_relieved()
        frames = self._frames
        if not frames:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if len(frames) == _BACKLOG:
            self._socket.read(wanted=True)
        data, is_text = frames.popleft()
        return await self._take(data, is_text=is_text)

    def _is_stalled(self) -> bool:
        return self._socket.is_full

    def flush(self) -> None:
        """Write what waits, as far as the peer takes it at once."""
        socket, protocol = self._socket, self.protocol
        while not socket.is_full:
            frame = protocol.next_frame()
            if frame is None:
                self._relieve()
                if (event := self._close_event()) is not None:
                    self._core.tasks.spawn(self._close(event), "openenv-async-close")
                return
            socket.write(frame, is_text=self._is_text)

    async def _close(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)
        except OSError:
            _logger.debug("= %s: the socket ended by itself", self.protocol.peer)

    def _writable(self) -> None:
        self.flush()
        self._relieve()

    def abort(self) -> None:
        """End without a word: the peer is silent, so nothing would arrive."""
        self._socket.abort()


class AsgiLink(_Link):
    """A link over ASGI's events, on any server.

    Args:
        core: The server.
        codec: The negotiated encoding.
        authorized: Whether the handshake carried a valid token.
        send: ASGI's.
        receive: ASGI's.
        connect: Makes what the connection speaks, if not our own protocol.
    """

    def __init__(
        self,
        core: ServerCore,
        codec: m.Codec,
        *,
        authorized: bool,
        send: Send,
        receive: Receive,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(core, codec, authorized=authorized, send=send, connect=connect)
        self._receive = receive
        self._sender: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Serve the connection until it ends."""
        self._core.add(self)
        self._hand_over()
        try:
            await self._ended
        finally:
            self._leave()
            if self._sender is not None:
                self._sender.cancel()

    async def _receive_all(self) -> None:
        try:
            while (event := await self._receive())["type"] != "websocket.disconnect":
                data = event.get("bytes")
                if data is None:
                    taken = self._take(event["text"].encode(), is_text=True)
                else:
                    taken = self._take(data, is_text=False)
                if await taken:
                    return
                await self._wait_relieved()
        except BaseException:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _is_stalled(self) -> bool:
        return self._sender is not None

    def flush(self) -> None:
        """Let a task write what waits, at the peer's pace."""
        if self._sender is None:
            self._sender = self._core.tasks.spawn(
                self._send_all(), "openenv-async-sender"
            )

    async def _send_all(self) -> None:
        protocol, send = self.protocol, self._send
        try:
            while (frame := protocol.next_frame()) is not None:
                if self._is_text:
                    await send({"type": "websocket.send", "text": frame.decode()})
                else:
                    await send({"type": "websocket.send", "bytes": frame})
                self._relieve()
            if (event := self._close_event()) is not None:
                await send(event)
        except OSError:
            # The socket ended under us; the receiver learns it too.
            _logger.debug("= %s: the socket ended while sending", protocol.peer)
        finally:
            self._sender = None
            self._relieve(always=True)

    def abort(self) -> None:
        """End without a word: the peer is silent, so nothing would arrive."""
        self._end()
