"""What travels between a server and its worker processes.

The same requests as on the wire, with payloads left as the client encoded them. The
handle is a number of the worker's; there is no sequence, because a pipe loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

import msgspec

from .. import messages as m
from ..errors import Executed

__all__ = [
    "Begin",
    "Done",
    "Failed",
    "FromWorker",
    "Pipe",
    "Ready",
    "Report",
    "ToWorker",
    "unwrap",
    "wrap",
]

_logger = logging.getLogger("openenv_async.server")

_HEAD: Final = 4
"""Bytes of a frame's length."""


class Begin(m.Message, frozen=True, tag="begin"):
    """A session now lives in this worker, or changed its encoding."""

    handle: int
    encoding: m.Encoding
    label: str


class Ready(m.Message, frozen=True, tag="ready"):
    """The worker has imported its environment."""


class Done(m.Message, frozen=True, tag="done", gc=False):
    """A request ended with a payload."""

    handle: int
    payload: m.Payload
    done: bool
    reward: float | None
    queue_ns: int
    environment_ns: int
    encode_ns: int


class Failed(m.Message, frozen=True, tag="failed"):
    """A request ended with an error."""

    handle: int
    code: str
    message: str
    executed: Executed
    outcome: str
    detail: dict[str, object] | None


class Report(m.Message, frozen=True, tag="report"):
    """A request reports progress."""

    handle: int
    fraction: float | None
    message: str


ToWorker = Begin | m.Reset | m.Step | m.GetState | m.Close | m.Cancel
FromWorker = Ready | Done | Failed | Report

MessageT = TypeVar("MessageT")


def wrap(payload: m.Payload, encoding: m.Encoding) -> m.Payload:
    """Make a payload fit into the pipe, whose own encoding is msgpack."""
    if encoding == "msgpack" or payload is None:
        return payload
    return bytes(cast(msgspec.Raw, payload))


def unwrap(payload: m.Payload, encoding: m.Encoding) -> m.Payload:
    """Undo `wrap` on what was decoded from the pipe."""
    if encoding == "msgpack" or payload is None:
        return payload
    inner = m.MSGPACK.generic(cast(msgspec.Raw, payload))
    return None if inner is None else m.raw(cast(bytes, inner))


class Pipe(asyncio.Protocol, Generic[MessageT]):
    """Frames of messages over a stream socket, coalesced per turn of the loop.

    Args:
        received: Called with every decoded frame's messages.
        lost: Called once when the other end is gone.
        decoder: Decodes one frame.
    """

    def __init__(
        self,
        *,
        decode: Callable[[bytes], list[MessageT]],
        received: Callable[[list[MessageT]], None],
        lost: Callable[[], None],
    ) -> None:
        self._decode = decode
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._encode = m.MSGPACK.encode

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Not an instance of it under uvloop.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD:
            end = _HEAD + int.from_bytes(buffer[:_HEAD], "big")
            if len(buffer) < end:
                return
            frame = bytes(memoryview(buffer)[_HEAD:end])
            del buffer[:end]
            try:
                messages = self._decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError):
                _logger.exception("= a worker's pipe carried something unreadable")
                self.close()
                return
            self._received(messages)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message with the others of this turn of the loop."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self.flush)
        self._outgoing.append(self._encode(message))

    def flush(self) -> None:
        """Write what waits."""
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and outgoing:
            frame = m.MSGPACK.frame(outgoing)
            self._transport.writelines([len(frame).to_bytes(_HEAD, "big"), frame])

    def close(self) -> None:
        """Close after what waits is written; idempotent."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
