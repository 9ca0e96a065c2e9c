"""What both sides of a connection have in common: outbox, heartbeats, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from .. import messages as m
from .framing import Outbox
from .tables import Phase

__all__ = ["UNENCODABLE", "Connection", "tag_of", "unusable"]

UNENCODABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What codecs raise for a value that an encoding does not have."""

_MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_MESSAGES: Final = 131_072
"""What may wait for a peer before nothing more is read from it."""
_SILENCE: Final = 3
"""Heartbeats without a sign of life after which the peer counts as gone (3.5)."""


class Connection:
    """One side of one connection: messages out, time passing.

    Args:
        codec: The encoding that the subprotocol names.
        limits: What this side accepts.
        wake: Called when something may begin to wait in the outbox.
        outbox: What messages wait in; by default one that makes frames and chunks.
        wake_later: Called instead of `wake` for what may wait a moment for more.
    """

    def __init__(
        self,
        codec: m.Codec,
        limits: m.Limits | None,
        wake: Callable[[], None] | None,
        outbox: Outbox | None = None,
        wake_later: Callable[[], None] | None = None,
    ) -> None:
        self.codec = codec
        self.limits = limits or m.Limits()
        self.phase = Phase.GREETING
        self.close_code: int | None = None
        """The WebSocket close code to end with, once the outbox is empty."""
        # Not `or`: an empty one is false.
        self._outbox = Outbox(codec, wake, wake_later) if outbox is None else outbox
        self.small: Final = self._outbox.small
        self.wake: Final = self._outbox.wake
        self.send: Final[Callable[[bytes], None]] = self._outbox.append
        """Queue an encoded message; raises like `Outbox.append`.

        An attribute, because a method would cost every reply another call.
        """
        self._heard: float | None = None
        self._pinged = 0.0
        self._nonce = 0

    def say(self, message: m.ClientMessage | m.ServerMessage) -> None:
        """Queue a message."""
        self.send(self.codec.encode(message))

    def takes_whole(self, size: int) -> bool:
        """Whether the peer accepts messages of a size without chunks."""
        return self._outbox.takes_whole(size)

    def next_frame(self) -> bytes | None:
        """Take the next frame to send, or None if nothing waits."""
        return self._outbox.frame()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outbox)

    @property
    def pending_bytes(self) -> int:
        """How much waits to be sent."""
        return self._outbox.size

    @property
    def congested(self) -> bool:
        """Whether so much waits that no more should be taken from the peer."""
        return len(self._outbox) > _MOST_MESSAGES or self._outbox.size > _MOST_BYTES

    def taken(self, now: float) -> None:
        """The peer has taken what was sent to it: a sign of life (3.5)."""
        self._heard = now

    def probe(self, now: float, after: float) -> None:
        """Ask for a sign of life sooner than a heartbeat does (3.5).

        Args:
            now: The clock.
            after: Seconds of silence from which on it is worth asking.
        """
        if self.phase is not Phase.READY or self._heard is None:
            return
        if now - self._heard >= after and self._pinged <= self._heard:
            self._ping(now)

    def silence(self, now: float, patience: float) -> float:
        """Seconds since the last sign of life; 0 if the peer was not asked for one.

        Args:
            now: The clock.
            patience: Seconds that the peer has to answer a ping.
        """
        heard = self._heard
        if heard is None or not heard < self._pinged <= now - patience:
            return 0.0
        return now - heard

    def _ping(self, now: float) -> None:
        self._pinged = now
        self._nonce += 1
        self.say(m.Ping(self._nonce))

    def tick(self, now: float) -> bool:
        """Let time pass; returns False when the peer has been silent too long.

        Call it every `limits.heartbeat / 2` seconds or so.
        """
        if self._heard is None:
            self._heard = now
        silence = now - self._heard
        interval = self.limits.heartbeat
        if (
            silence >= _SILENCE * interval
            # Not while nobody was asked, as after a time in which we were blocked.
            and self._heard < self._pinged <= now - interval
        ):
            return False
        if silence >= interval and now - self._pinged >= interval:
            if self.phase is Phase.GREETING:
                # A peer that never greets holds a socket for nothing.
                return False
            self._ping(now)
        return True


_LEAST: Final = {"frame_bytes": 1024, "chunk_bytes": 256, "message_bytes": 4096}
"""Limits below which the protocol's own messages would not fit (section 3.2)."""


def unusable(limits: m.Limits) -> str:
    """What is wrong with a peer's limits; empty if they can be kept."""
    return ", ".join(
        f"expected {name} of at least {least}, got {getattr(limits, name)}"
        for name, least in _LEAST.items()
        if getattr(limits, name) < least
    )


def tag_of(message: msgspec.Struct) -> str:
    """The tag of a message, for error texts."""
    return str(message.__struct_config__.tag)
