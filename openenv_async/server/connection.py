"""One WebSocket of the server: raw ASGI events on one side, the core on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, Final

from .. import messages as m
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

    Args:
        core: The server.
        codec: The negotiated encoding.
        authorized: Whether the handshake carried a valid token.
        send: ASGI's.
        abort: Drops the socket, where the ASGI server lets us.
    """

    def __init__(
        self,
        core: ServerCore,
        codec: m.Codec,
        *,
        authorized: bool,
        send: Send,
        abort: Callable[[], None] | None,
    ) -> None:
        self.protocol = core.connect(codec, authorized=authorized, wake=self._wake)
        self._core = core
        self._is_text = codec.is_text
        self._send = send
        self._abort = abort
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self._sender: asyncio.Task[None] | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._relief: asyncio.Future[None] | None = None
        """What the receiver waits for while the peer takes no answers."""
        self._aborted = False

    async def serve(self, receive: Receive) -> None:
        """Serve the connection until it ends."""
        self._receiver = asyncio.current_task()
        self._core.add(self)
        self._sender = self._core.tasks.spawn(self._send_all(), "openenv-async-sender")
        core, protocol = self._core, self.protocol
        try:
            while True:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return
                data = event.get("bytes")
                if (data is None) is not self._is_text:
                    protocol.refuse_frame_type()
                    continue
                if data is None:
                    data = event["text"].encode()
                if protocol.close_code is None:
                    core.receive(protocol, data)
                    if protocol.close_code is not None:
                        # Perhaps without a message that would wake the sender.
                        self._wake()
                    elif protocol.congested:
                        await self._wait_relieved()
        except asyncio.CancelledError:
            task = self._receiver
            if not self._aborted or task is None:
                raise
            task.uncancel()
        finally:
            self._core.discard(self)
            self._sender.cancel()

    async def _wait_relieved(self) -> None:
        """Read no more from a peer that sends requests but does not take answers.

        That it takes some counts as a sign of life, because none of its own are read.
        """
        if self._sender is not None and not self._sender.done():
            self._relief = asyncio.get_running_loop().create_future()
            await self._relief
            self._relief = None

    # Sending

    def _wake(self) -> None:
        """Something waits: let the sender run once this turn's work is done."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def flush(self) -> None:
        """Let the sender run; it was woken when the first message came."""
        self._wake()

    async def _send_all(self) -> None:
        protocol, send = self.protocol, self._send
        kind = "text" if self._is_text else "bytes"
        loop = asyncio.get_running_loop()
        try:
            while True:
                frame = protocol.next_frame()
                if frame is not None:
                    data = frame.decode() if self._is_text else frame
                    await send({"type": "websocket.send", kind: data})
                    if self._relief is not None:
                        protocol.taken(perf_counter())
                        if not protocol.congested:
                            self._relieve()
                    continue
                if protocol.close_code is not None:
                    await send({"type": "websocket.close", "code": protocol.close_code})
                    return
                self._waiter = loop.create_future()
                await self._waiter
        except OSError:
            # The socket ended under us; the receiver learns it too.
            _logger.debug("= %s: the socket ended while sending", protocol.peer)
        finally:
            self._relieve()

    def _relieve(self) -> None:
        if self._relief is not None and not self._relief.done():
            self._relief.set_result(None)

    def abort(self) -> None:
        """End without a word: the peer is silent, so nothing would arrive."""
        self._aborted = True
        if self._abort is not None:
            self._abort()
        if self._receiver is not None:
            self._receiver.cancel()
