"""`ServerObserver`: lists a server's sessions and follows them live.

What it gets costs the watched session one encoding a step and nothing else: an observer
that falls behind loses events, and is told how many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Final

import msgspec

from .. import messages as m
from .._aio import shielded
from ..errors import ConnectFailed, LocalProtocolError
from ..protocol import error_of
from ..providers import FixedServer
from .connection import ConnectionOptions
from .endpoint import Endpoint
from .links import Link
from .pool import Pool, pool_of
from .results import Timing, revive

__all__ = ["ServerObserver", "SessionEvent"]

_BACKLOG: Final = 1024
"""Events that may wait for the caller of `watch`."""
_CLOSE_TIMEOUT: Final = 5.0


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened on a watched session."""

    kind: str
    """`reset`, `step`, `state`, `error` or `ended`."""
    seq: int
    """Number of the request."""
    dropped: int
    """Events lost since the one before, because the observer was slow."""
    request: Any
    """The action, or the arguments of the reset; None for the other kinds."""
    payload: Any
    """The observation or state; for `error` a map of code and message."""
    timing: Timing
    """Where the server's time went; there is no round trip."""


class _Inbox:
    """Messages of one list or watch, for whoever awaits them."""

    def __init__(self) -> None:
        self.messages: deque[m.ServerMessage] = deque()
        self.dropped = 0
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, message: m.ServerMessage) -> None:
        """Take a message; called by the connection."""
        is_event = isinstance(message, m.Event) and message.kind != "ended"
        if is_event and len(self.messages) >= _BACKLOG:
            self.dropped += 1
            return
        self.messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> m.ServerMessage:
        """Wait for a message.

        Raises:
            OpenEnvError: The server refused, or the connection is lost.
        """
        while not self.messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self.messages.popleft()
        if isinstance(message, m.Failure):
            raise error_of(message)
        return message


class ServerObserver:
    """Looks at a server's sessions without touching them.

    Use it as an async context manager. It shares the connections of the process's
    clients.

    Args:
        url: As for `EnvClient`.
        token: Bearer token.
        connect_timeout: Seconds for the first connection.
    """

    def __init__(
        self, url: str, *, token: str | None = None, connect_timeout: float = 10.0
    ) -> None:
        Endpoint.parse(url)  # A wrong one is told now, not at the first use.
        self._server = FixedServer(url)
        self._options = ConnectionOptions(token=token, connect_timeout=connect_timeout)
        self._pool: Pool | None = None
        self._connection: Link | None = None

    async def __aenter__(self) -> ServerObserver:
        self._pool = pool_of(self._server, self._options)
        (self._connection,) = await self._pool.acquire(1, sockets=None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._pool is not None:
            await shielded(self._pool.release([connection]), timeout=_CLOSE_TIMEOUT)

    def _open(self) -> Link:
        if self._connection is None:
            raise LocalProtocolError("expected an open observer: use `async with`")
        if not self._connection.protocol.ready:
            # What is asked now would belong to no socket, and nobody would answer.
            raise ConnectFailed("expected a connection, but it was lost")
        return self._connection

    async def sessions(
        self, *, environment: str | None = None, limit: int = 10_000
    ) -> list[m.SessionRow]:
        """List the server's sessions.

        Args:
            environment: Only those of this environment.
            limit: Most rows.

        Raises:
            OpenEnvError: The connection is lost.
        """
        connection = self._open()
        inbox = _Inbox()
        number = connection.subscribe(inbox)
        try:
            connection.protocol.say(m.ListSessions(number, environment, limit))
            message = await inbox.next()
        finally:
            connection.unsubscribe(number)
        assert isinstance(message, m.Sessions)
        return message.rows

    async def watch(
        self, session: str, *, queue: int = 256
    ) -> AsyncGenerator[SessionEvent, None]:
        """Follow a session from now on, until it ends or the caller stops.

        Close the generator, as with `contextlib.aclosing`, to end the subscription at
        once.

        Args:
            session: Public id, as in `sessions`.
            queue: Messages that may wait on the server before events are dropped.

        Raises:
            OpenEnvError: There is no such session, or the connection is lost.
        """
        connection = self._open()
        inbox = _Inbox()
        number = connection.subscribe(inbox)
        try:
            connection.protocol.say(m.Watch(number, session, queue))
            await inbox.next()
            while True:
                message = await inbox.next()
                assert isinstance(message, m.Event)
                dropped, inbox.dropped = inbox.dropped, 0
                yield _event(message, dropped)
                if message.kind == "ended":
                    return
        finally:
            connection.unsubscribe(number)
            if connection.error is None:
                connection.protocol.say(m.Unwatch(number))


def _event(message: m.Event, dropped: int) -> SessionEvent:
    return SessionEvent(
        kind=message.kind,
        seq=message.seq,
        dropped=message.dropped + dropped,
        request=_value(message.request),
        payload=_value(message.payload),
        timing=Timing(
            message.queue_ns + message.environment_ns + message.encode_ns,
            message.queue_ns,
            message.environment_ns,
            message.encode_ns,
        ),
    )


def _value(payload: m.Payload) -> object:
    decode = m.MSGPACK.generic
    return revive(decode(payload))  # type: ignore[arg-type]  # Raw is a buffer
