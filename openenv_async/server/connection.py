"""One WebSocket of the server: raw ASGI events on one side, the core on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Final

from .. import messages as m
from .._aio import Resumed
from .core import ServerCore

__all__ = ["ABORT", "CODECS", "WebSocketLink"]

_logger = logging.getLogger("openenv_async.server")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CODECS: Final = {m.MSGPACK.subprotocol: m.MSGPACK, m.JSON.subprotocol: m.JSON}
"""The encodings that a client may ask for, by subprotocol."""

ABORT: Final = "openenv_async.abort"
"""ASGI extension of our own server: drop the socket without waiting for the peer."""


class WebSocketLink:
    """Moves frames between an ASGI WebSocket and the core.

    The task that receives a frame also runs what the frame asks for, as long as no
    environment suspends; then another task takes over receiving. Answers are written
    by whoever has them. A lone step thus wakes one task, not three.

    Args:
        core: The server.
        codec: The negotiated encoding.
        authorized: Whether the handshake carried a valid token.
        send: ASGI's.
        receive: ASGI's.
        abort: Drops the socket, where the ASGI server lets us.
    """

    def __init__(
        self,
        core: ServerCore,
        codec: m.Codec,
        *,
        authorized: bool,
        send: Send,
        receive: Receive,
        abort: Callable[[], None] | None,
    ) -> None:
        self.protocol = core.connect(codec, authorized=authorized, wake=self._wake)
        self._core = core
        self._is_text = codec.is_text
        self._send = send
        self._receive = receive
        self._abort = abort
        # Only our own server is known to send without needing a task around it.
        self._is_direct = abort is not None
        self._sender: asyncio.Task[None] | None = None
        """Writes while the peer takes less than there is."""
        self._receiver: asyncio.Task[None] | None = None
        self._relief: asyncio.Future[None] | None = None
        """What the receiver waits for while the peer takes no answers."""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Serve the connection until it ends."""
        self._core.add(self)
        self._hand_over()
        try:
            await self._ended
        finally:
            self._core.discard(self)
            for task in (self._receiver, self._sender):
                if task is not None:
                    task.cancel()

    # Receiving

    def _hand_over(self) -> None:
        """Let a new task receive; the one that did may stay with an environment."""
        self._receiver = self._core.tasks.spawn(
            self._receive_all(), "openenv-async-receiver"
        )

    async def _receive_all(self) -> None:
        try:
            while await self._receive_one():
                if await self._core.run(self._hand_over):
                    return
                if self.protocol.congested:
                    await self._wait_relieved()
        except BaseException:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _receive_one(self) -> bool:
        """Take an event from the server; says whether there will be more."""
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return False
        protocol = self.protocol
        data = event.get("bytes")
        if (data is None) is not self._is_text:
            protocol.refuse_frame_type()
        elif protocol.close_code is None:
            self._core.receive(
                protocol, event["text"].encode() if data is None else data
            )
        if protocol.close_code is not None:
            # Perhaps without a message that would wake anybody.
            self._wake()
        return True

    async def _wait_relieved(self) -> None:
        """Read no more from a peer that sends requests but does not take answers.

        That it takes some counts as a sign of life, because none of its own are read.
        """
        if self._sender is not None:
            self._relief = asyncio.get_running_loop().create_future()
            await self._relief
            self._relief = None

    # Sending

    def _wake(self) -> None:
        """Something waits: it is sent once this turn's work is done."""
        self._core.mark(self)

    def flush(self) -> None:
        """Write what waits, as far as the peer takes it at once."""
        if self._sender is not None:
            return
        if not self._is_direct:
            self._spawn_sender(None)
            return
        while (event := self._next_event()) is not None:
            sending: Any = self._send(event)
            try:
                yielded = sending.send(None)
            except StopIteration:
                continue
            except OSError:
                # The socket ended under us; the receiver learns it too.
                return
            self._spawn_sender(Resumed(sending, yielded))
            return

    def _spawn_sender(self, unfinished: Awaitable[object] | None) -> None:
        self._sender = self._core.tasks.spawn(
            self._send_rest(unfinished), "openenv-async-sender"
        )

    def _next_event(self) -> dict[str, Any] | None:
        protocol = self.protocol
        frame = protocol.next_frame()
        if frame is not None:
            if self._is_text:
                return {"type": "websocket.send", "text": frame.decode()}
            return {"type": "websocket.send", "bytes": frame}
        if protocol.close_code is not None and not self._is_closing:
            self._is_closing = True
            return {"type": "websocket.close", "code": protocol.close_code}
        return None

    _is_closing = False

    async def _send_rest(self, unfinished: Awaitable[object] | None) -> None:
        """Write until nothing waits, at the peer's pace."""
        protocol = self.protocol
        try:
            if unfinished is not None:
                await unfinished
            while (event := self._next_event()) is not None:
                await self._send(event)
                if self._relief is not None:
                    protocol.taken(perf_counter())
                    if not protocol.congested:
                        self._relieve()
        except OSError:
            _logger.debug("= %s: the socket ended while sending", protocol.peer)
        finally:
            self._sender = None
            self._relieve()

    def _relieve(self) -> None:
        if self._relief is not None and not self._relief.done():
            self._relief.set_result(None)

    def abort(self) -> None:
        """End without a word: the peer is silent, so nothing would arrive."""
        if self._abort is not None:
            self._abort()
        self._end()
