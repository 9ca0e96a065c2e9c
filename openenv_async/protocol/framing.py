"""Messages to frames and back: coalescing, chunks, size limits (section 2).

`Outbox` turns encoded messages into frames, `Inbox` turns frames into messages.
Both are pure: they never wait, and they hold nothing but what is in transit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from ..errors import Executed, LocalProtocolError, RemoteProtocolError
from ..messages import Chunk, Codec, Encoded, Failure, FrameDecoder, Limits, failure

__all__ = ["Inbox", "Outbox"]

MessageT = TypeVar("MessageT")

FRAME_TARGET: Final = 256 * 1024
"""Bytes after which a frame is closed, so that the peer can begin with it."""
FRAME_MESSAGES: Final = 512
"""Messages after which a frame is closed, for the same reason."""
_CHUNK_OVERHEAD: Final = 64
"""Upper bound of what a frame with one chunk adds around the chunk's data."""
_OPEN_STREAMS: Final = 1024
"""Chunked messages that a peer may interleave."""
_INTERLEAVED: Final = 16
"""Chunked messages that we interleave: enough for all to move, few enough that the
first ones end soon."""
_MOST_HELD: Final = 64
"""Held messages that wait no longer."""
_TEXT: Final = 200
"""Characters of a decoder's complaint that are worth sending back."""


def _nothing() -> None:
    """Nobody wants to be woken."""


class _Stream:
    """A message on its way in chunks."""

    __slots__ = ("data", "number", "offset")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = memoryview(data)
        self.offset = 0


class Outbox:
    """Encoded messages that wait to be sent, oldest first.

    `wake` is called when something may begin to wait, `wake_later` when it may do so
    for a moment. Messages above the chunk size
    leave in chunks, one chunk a frame in rotation, so that small messages of other
    sessions overtake them (section 2.3).
    """

    def __init__(
        self,
        codec: Codec,
        wake: Callable[[], None] | None = None,
        wake_later: Callable[[], None] | None = None,
    ) -> None:
        self.codec = codec
        self.wake = wake or _nothing
        self._wake_later = wake_later or self.wake
        self._held: list[bytes] = []
        """Small messages that wait for others, or a little while."""
        self.small: Final[list[bytes]] = []
        """Messages that go out whole. Whoever knows that a message is small may append
        it here, after waking if the list is empty: what `append` does, without a call.
        """
        self._streams: deque[_Stream] = deque()
        """What is on its way in chunks, and behind it what waits for that."""
        self._moving = 0
        """How many of the streams are on their way."""
        self._moving_bytes = 0
        self._next_stream = 1
        self._behind: list[tuple[int, bytes]] = []
        """Small messages, with the number of the last stream that goes before them."""
        self._chunk_next = False
        self.peer = Limits()

    @property
    def peer(self) -> Limits:
        """The peer's limits; before the greeting, the defaults."""
        return self._peer

    @peer.setter
    def peer(self, limits: Limits) -> None:
        self._peer = limits
        room = min(limits.chunk_bytes, limits.frame_bytes - _CHUNK_OVERHEAD)
        self._whole = min(room, FRAME_TARGET, limits.message_bytes)
        # Base64 makes four characters of three bytes.
        self._piece = room * 3 // 4 if self.codec.is_text else room
        self._target = min(FRAME_TARGET, limits.frame_bytes - _CHUNK_OVERHEAD)

    def takes(self, size: int) -> bool:
        """Whether the peer accepts a message of a size at all."""
        return size <= self._whole or size <= self._peer.message_bytes

    def append_behind(self, data: bytes) -> None:
        """Queue a small message that overtakes nothing that waits now."""
        self.release()
        if self._streams:
            self._behind.append((self._next_stream - 1, data))
        else:
            self.append(data)

    def hold(self, data: bytes) -> None:
        """Queue an encoded message that may wait a little for others.

        It leaves with the next frame, whatever that is made for, and behind what is
        queued until then, unless `release` comes first.

        Raises:
            LocalProtocolError: It is larger than the peer accepts (`too_large`).
        """
        held = self._held
        if len(data) > self._whole:
            self.append(data)
            return
        held.append(data)
        if len(held) == 1:
            self._wake_later()
        elif len(held) == _MOST_HELD:
            self.wake()

    def release(self) -> None:
        """Let what was held go before what is queued from now on."""
        if self._held:
            if not self.small:
                self.wake()
            self.small.extend(self._held)
            self._held.clear()

    def takes_whole(self, size: int) -> bool:
        """Whether messages of a size go out whole."""
        return size <= self._whole

    def append(self, data: bytes) -> None:
        """Queue an encoded message.

        Raises:
            LocalProtocolError: It is larger than the peer accepts (`too_large`).
        """
        size = len(data)
        if size <= self._whole:
            small = self.small
            if not small:
                self.wake()
            small.append(data)
            return
        if size > self._peer.message_bytes:
            raise LocalProtocolError(
                f"expected a message of at most {self._peer.message_bytes} bytes, "
                f"got {size}",
                code="too_large",
                detail={"size": size, "limit": self._peer.message_bytes},
            )
        self.wake()
        self._streams.append(_Stream(self._next_stream, data))
        self._next_stream += 1

    def __len__(self) -> int:
        return len(self.small) + len(self._streams) + len(self._held)

    @property
    def size(self) -> int:
        """Bytes that wait, without framing."""
        return sum(map(len, (*self._held, *self.small))) + sum(
            len(stream.data) - stream.offset for stream in self._streams
        )

    def frame(self) -> bytes | None:
        """Take the next frame, or None if nothing waits."""
        small = self.small
        if self._held:
            small.extend(self._held)
            self._held.clear()
        if not self._streams:
            if not small:
                return None
            count = len(small)
            # With the commas between JSON messages.
            if count <= FRAME_MESSAGES and sum(map(len, small)) + count <= self._target:
                frame = self.codec.frame(small)
                small.clear()
                return frame
        # Small messages and chunks take turns, so that neither starves the other.
        self._chunk_next = bool(self._streams) and (self._chunk_next or not small)
        if self._chunk_next:
            self._chunk_next = False
            return self.codec.frame([self._take_chunk()])
        self._chunk_next = True
        return self.codec.frame(self._take_small())

    def _take_small(self) -> list[bytes]:
        size = count = 0
        for data in self.small:
            # One byte more for the comma between JSON messages.
            size += len(data) + 1
            if count and (size > self._target or count >= FRAME_MESSAGES):
                break
            count += 1
        taken = self.small[:count]
        del self.small[:count]
        return taken

    def _take_chunk(self) -> bytes:
        self._move()
        stream = self._streams.popleft()
        end = stream.offset + self._piece
        final = end >= len(stream.data)
        piece = stream.data[stream.offset : end]
        stream.offset = end
        if final:
            self._moving -= 1
            self._moving_bytes -= len(stream.data)
            if self._behind:
                self._let_go()
        else:
            self._streams.insert(self._moving - 1, stream)
        # Encoding takes any buffer for bytes.
        return self.codec.encode(Chunk(stream.number, final, piece))  # type: ignore[arg-type]  # a view saves a copy

    def _let_go(self) -> None:
        """Send what waited for chunked messages that have all left."""
        first = min((stream.number for stream in self._streams), default=math.inf)
        waiting = self._behind
        self._behind = [item for item in waiting if item[0] >= first]
        self.small.extend(data for number, data in waiting if number < first)

    def _move(self) -> None:
        """Let streams set out that wait for others, as far as the peer has room."""
        while self._moving < min(len(self._streams), _INTERLEAVED):
            size = len(self._streams[self._moving].data)
            # The peer's bound holds for all unfinished messages together.
            if self._moving and self._moving_bytes + size > self._peer.message_bytes:
                return
            self._moving += 1
            self._moving_bytes += size

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        self.small.clear()
        self._streams.clear()
        self._behind.clear()
        self._moving = self._moving_bytes = 0


class Inbox(Generic[MessageT]):
    """Frames of one direction to messages; a bad message costs only itself.

    Args:
        codec: The encoding.
        limits: What this side accepts.
        decoder: The direction.
        executed: What is known of the request that a bad message belongs to.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        *,
        decoder: FrameDecoder[MessageT],
        executed: Executed,
    ) -> None:
        self.codec = codec
        self.limits = limits
        self._executed: Executed = executed
        self._decode_frame = decoder.frame
        self._decode_message = decoder.message
        self._decode_items = decoder.items
        self._partial: dict[int, bytearray] = {}
        self._partial_bytes = 0

    def messages(self, frame: bytes) -> Sequence[MessageT | Failure]:
        """Decode a frame; what cannot be decoded becomes a `Failure` in its place.

        Raises:
            RemoteProtocolError: The frame is no array of messages, or too large; the
                connection cannot go on.
        """
        size = len(frame)
        if size > self.limits.frame_bytes:
            raise RemoteProtocolError(
                f"expected a frame of at most {self.limits.frame_bytes} bytes, "
                f"got {size}",
                code="invalid_frame",
                detail={"size": size, "limit": self.limits.frame_bytes},
            )
        try:
            messages = self._decode_frame(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._one_by_one(frame)
        return messages

    def _one_by_one(self, frame: bytes) -> list[MessageT | Failure]:
        try:
            items = self._decode_items(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(
                f"expected an array of messages in {self.codec.encoding}, got "
                f"{len(frame)} bytes that are not: {str(error)[:_TEXT]}",
                code="invalid_frame",
            ) from error
        return [self._one(item) for item in items]

    def _one(self, item: Encoded) -> MessageT | Failure:
        try:
            message = self._decode_message(item)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            handle, seq, tag = _address(self.codec, item)
            return failure(
                handle,
                seq,
                "protocol_error",
                f"expected a known, well-formed message, got {tag!r}: "
                f"{str(error)[:_TEXT]}",
                executed=self._executed,
                detail={"tag": tag},
            )
        return message

    def chunk(self, chunk: Chunk) -> MessageT | Failure | None:
        """Add a piece; returns the whole message with its last piece (section 2.3).

        Raises:
            RemoteProtocolError: The pieces exceed the limits.
        """
        partial = self._partial.get(chunk.stream)
        if partial is None:
            if len(self._partial) >= _OPEN_STREAMS:
                raise RemoteProtocolError(
                    f"expected at most {_OPEN_STREAMS} chunked messages at a time",
                    code="invalid_frame",
                )
            partial = self._partial[chunk.stream] = bytearray()
        partial += chunk.data
        self._partial_bytes += len(chunk.data)
        # The bound holds for all open streams together, or a peer could fill our
        # memory with many unfinished messages.
        if self._partial_bytes > self.limits.message_bytes:
            raise RemoteProtocolError(
                f"expected chunked messages of at most {self.limits.message_bytes} "
                f"bytes, got {self._partial_bytes}",
                code="invalid_frame",
                detail={
                    "size": self._partial_bytes,
                    "limit": self.limits.message_bytes,
                },
            )
        if not chunk.final:
            return None
        del self._partial[chunk.stream]
        self._partial_bytes -= len(partial)
        return self._one(partial)


def _address(codec: Codec, item: Encoded) -> tuple[int | None, int | None, str]:
    """Find handle, sequence number and tag of a message that has no valid form.

    Looks at the first items only, because the rest may be large, and untyped values
    take many times their encoded size.
    """
    try:
        items = codec.from_client.items(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None, type(_small(codec, item)).__name__
    if not items:
        return None, None, "list"
    fields = [_small(codec, field) for field in items[:3]]
    first, handle, seq = (*fields, None, None, None)[:3]
    tag = str(first)[:64]
    if tag in _WITHOUT_HANDLE or type(handle) is not int:
        return None, None, tag
    return handle, seq if type(seq) is int else None, tag


_WITHOUT_HANDLE: Final = frozenset(
    {
        "list",
        "watch",
        "unwatch",
        "sessions",
        "watching",
        "event",
        "hello",
        "welcome",
        "ping",
        "pong",
        "chunk",
        "goodbye",
    }
)
"""Tags of messages whose first field is no handle."""
_SMALL: Final = 256


def _small(codec: Codec, field: Encoded) -> object:
    """Decode a field if it is small; anything else is of no use here."""
    if memoryview(field).nbytes > _SMALL:
        return None
    try:
        return codec.generic(field)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
