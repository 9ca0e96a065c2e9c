"""The client's side of one connection, and the sessions that outlive it.

The machine reads no clock and touches no socket. Requests are encoded once and kept
until they are answered; after a reconnect every session is resumed by its key and its
open request is sent again, which the server recognises by its number (section 5.3).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar, assert_never

from .. import messages as m
from ..errors import (
    Executed,
    LocalProtocolError,
    OpenEnvError,
    RemoteProtocolError,
    SessionBusy,
    SessionClosed,
    SessionLost,
    VersionMismatch,
    error_from_code,
)
from .connection import UNENCODABLE, Connection, tag_of, unusable
from .framing import Inbox
from .tables import RECEIVES, Phase

__all__ = [
    "ClientEvent",
    "ClientProtocol",
    "ClientSession",
    "check_seed",
    "check_timeout",
    "decode_error",
    "ended_again",
    "error_of",
]

WaiterT = TypeVar("WaiterT")


class ClientSession(Generic[WaiterT]):
    """One session, seen from the client: its key, its request in flight, its end."""

    __slots__ = (
        "cancelling",
        "ended",
        "environment",
        "handle",
        "id",
        "opened",
        "opening",
        "pending",
        "sent_ns",
        "seq",
        "waiter",
    )

    def __init__(self, opening: m.Open | m.TakeOver) -> None:
        self.opening = opening
        self.handle = opening.handle
        self.id = ""
        """Public id; empty until the server has opened the session."""
        self.environment = ""
        self.opened = False
        """Whether the current connection knows the session."""
        self.seq = 0
        self.pending: bytes | None = None
        """The encoded request in flight."""
        self.cancelling = False
        self.ended: OpenEnvError | None = None
        """Why no request is possible any more."""
        self.sent_ns = 0
        self.waiter: WaiterT | None = None
        """What the caller puts here to find whom a reply belongs to."""


ClientEvent: TypeAlias = tuple[ClientSession[WaiterT] | None, m.ServerMessage]
"""A message with the session that it belongs to, if it belongs to one."""


class ClientProtocol(Connection, Generic[WaiterT]):
    """One connection to one server, seen from the client.

    Args:
        codec: The encoding that the subprotocol names.
        client: Name and version of the software, for the server's log.
        limits: What this side accepts.
        token: Bearer token, where it cannot travel as an HTTP header.
        wake: Called when something begins to wait in the outbox.
    """

    def __init__(
        self,
        *,
        codec: m.Codec = m.MSGPACK,
        client: str = "",
        limits: m.Limits | None = None,
        token: str | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(codec, limits, wake)
        self.phase = Phase.CLOSED
        self.welcome: m.Welcome | None = None
        """The server's greeting on the current connection, or the last one."""
        self.sessions: dict[int, ClientSession[WaiterT]] = {}
        self._encode = codec.encode
        self._client = client
        self._token = token
        self._next_handle = 1
        self._inbox = self._new_inbox()

    # Connection

    def connection_made(self, now: float) -> None:
        """A new socket is open: say hello, forget what belonged to the old one."""
        self._reset_connection()
        self.phase = Phase.GREETING
        self._heard = now
        self.say(m.Hello(m.VERSION, self._client, self.limits, self._token))

    def connection_lost(self) -> None:
        """The socket is gone; sessions and their requests wait for the next one."""
        self.phase = Phase.CLOSED
        self._reset_connection()

    def _new_inbox(self) -> Inbox[m.ServerMessage]:
        # The environment may have run what an unreadable reply answers.
        decoder = self.codec.from_server
        return Inbox(self.codec, self.limits, decoder=decoder, executed="unknown")

    def _reset_connection(self) -> None:
        self._outbox.clear()
        # The greeting may not come in the chunks that the last peer asked for.
        self._outbox.peer = m.Limits()
        self._inbox = self._new_inbox()
        self.close_code = None
        for session in self.sessions.values():
            session.opened = False

    def goodbye(self) -> None:
        """Tell the server that this client leaves for good."""
        if self.phase in (Phase.READY, Phase.DRAINING):
            self.say(m.Goodbye())

    @property
    def ready(self) -> bool:
        """Whether the greeting is done and the connection is open."""
        return self.phase in (Phase.READY, Phase.DRAINING)

    # Sessions

    def open(
        self,
        key: str,
        *,
        environment: str | None = None,
        owner: str = "",
        lease: float | None = None,
        wait: float = 0.0,
        hold: bool = False,
    ) -> ClientSession[WaiterT]:
        """Begin a session; `Opened` or `Failure` will say what became of it."""
        handle = self._take_handle()
        return self._begin(m.Open(handle, key, environment, owner, lease, wait, hold))

    def take_over(
        self, key: str, session: str, *, lease: float
    ) -> ClientSession[WaiterT]:
        """Begin to drive somebody else's session (section 7.3)."""
        return self._begin(m.TakeOver(self._take_handle(), session, key, lease))

    def _take_handle(self) -> int:
        handle = self._next_handle
        self._next_handle += 1
        return handle

    def _begin(self, opening: m.Open | m.TakeOver) -> ClientSession[WaiterT]:
        session: ClientSession[WaiterT] = ClientSession(opening)
        if self.ready:
            # Raises before anything is remembered.
            self.say(opening)
        self.sessions[session.handle] = session
        return session

    def step(
        self, session: ClientSession[WaiterT], action: object, timeout: float | None
    ) -> None:
        """Send a step. Raises like `request`."""
        if timeout is not None:
            check_timeout(timeout)
        seq = session.seq + 1
        message = m.Step(session.handle, seq, action, timeout)
        if session.pending is not None or not session.opened:
            self._request(session, message)
            return
        # The hot path: what `_request` does for a session that is open and idle.
        try:
            data = self._encode(message)
        except UNENCODABLE as error:
            raise self._unencodable(error) from error
        self.send(data)
        session.pending = data
        session.seq = seq

    def reset(
        self,
        session: ClientSession[WaiterT],
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: object = None,
        timeout: float | None = None,
    ) -> None:
        """Send a reset. Raises like `request`."""
        if timeout is not None:
            check_timeout(timeout)
        if seed is not None:
            seed = check_seed(seed)
        seq = session.seq + 1
        self._request(
            session, m.Reset(session.handle, seq, seed, episode_id, options, timeout)
        )

    def state(
        self, session: ClientSession[WaiterT], timeout: float | None = None
    ) -> None:
        """Ask for the state. Raises like `request`."""
        if timeout is not None:
            check_timeout(timeout)
        self._request(session, m.GetState(session.handle, session.seq + 1, timeout))

    def close(
        self, session: ClientSession[WaiterT], timeout: float | None = None
    ) -> None:
        """Ask the server to close the environment. Raises like `request`."""
        if timeout is not None:
            check_timeout(timeout)
        self._request(session, m.Close(session.handle, session.seq + 1, timeout))

    def _request(
        self,
        session: ClientSession[WaiterT],
        message: m.Reset | m.Step | m.GetState | m.Close,
    ) -> None:
        """Encode a request, remember it, and send it as soon as that is possible.

        Raises:
            SessionBusy: Another request is in flight on the session.
            SessionClosed: The session has ended.
            LocalProtocolError: The payload cannot be encoded or is too large; nothing
                was sent and the session is as it was.
        """
        if session.pending is not None:
            raise SessionBusy(
                f"expected one call at a time on a session, got {tag_of(message)!r} "
                f"while request {session.seq} is in flight"
            )
        if session.ended is not None:
            raise ended_again(session.ended)
        try:
            data = self._encode(message)
        except UNENCODABLE as error:
            raise self._unencodable(error) from error
        if session.opened:
            # Raises before anything is remembered.
            self.send(data)
        session.pending = data
        session.seq = message.seq

    def _unencodable(self, error: Exception) -> LocalProtocolError:
        return LocalProtocolError(
            f"expected a payload that {self.codec.encoding} can encode: {error}",
            code="invalid_action",
        )

    def cancel(self, session: ClientSession[WaiterT]) -> None:
        """Ask to stop the request in flight; its reply says what became of it."""
        if session.pending is None or session.cancelling:
            return
        session.cancelling = True
        if session.opened:
            self.say(m.Cancel(session.handle, session.seq))

    def abandon(self, session: ClientSession[WaiterT]) -> None:
        """Give a session up, opened or not, and have the server close it."""
        if session.ended is None and self.ready:
            self.say(m.Cancel(session.handle, 0))
        self.forget(session)

    def forget(self, session: ClientSession[WaiterT]) -> None:
        """Drop a session without telling the server, whose lease will end it."""
        self.sessions.pop(session.handle, None)
        session.opened = False
        if session.ended is None:
            session.ended = SessionClosed("the session was closed")

    def hand_back(self, session: ClientSession[WaiterT]) -> None:
        """End a take-over (section 7.3); `Ended` confirms it."""
        if session.opened:
            self.say(m.HandBack(session.handle))

    # Receiving

    def receive(self, frame: bytes, now: float) -> list[ClientEvent[WaiterT]]:
        """Take a frame; returns its messages with their sessions, in order.

        Raises:
            RemoteProtocolError: The server broke the rules; the connection is over.
        """
        self._heard = now
        events: list[ClientEvent[WaiterT]] = []
        sessions = self.sessions
        ready = self.ready
        for message in self._inbox.messages(frame):
            # The hot path: the table allows a reply once the greeting is done.
            if ready and type(message) is m.Reply:
                session = sessions.get(message.handle)
                if (
                    session is not None
                    and message.seq == session.seq
                    and session.pending is not None
                ):
                    session.pending = None
                    if session.cancelling:
                        session.cancelling = False
                    events.append((session, message))
                continue
            self._dispatch(message, events)
            ready = self.ready
        return events

    def _dispatch(  # noqa: C901 (a match over a union)
        self, message: m.ServerMessage, events: list[ClientEvent[WaiterT]]
    ) -> None:
        phase = RECEIVES["client"][self.phase].get(type(message))
        if phase is None:
            raise RemoteProtocolError(
                f"expected no {tag_of(message)!r} in phase {self.phase.value!r}"
            )
        match message:
            case m.Chunk():
                whole = self._inbox.chunk(message)
                if isinstance(whole, m.Chunk):
                    raise RemoteProtocolError("expected no chunk in chunks")
                if whole is not None:
                    self._dispatch(whole, events)
                return
            case m.Reply():
                self._answered(message, events)
            case m.Failure():
                self._failed(message, events)
            case m.Welcome():
                self._welcomed(message, events)
                return
            case m.Opened():
                self._opened(message, events)
            case m.Ended():
                session = self.sessions.get(message.handle)
                if session is not None:
                    self._lose(session, message, events)
            case m.Progress():
                session = self.sessions.get(message.handle)
                if session is not None and session.seq == message.seq:
                    events.append((session, message))
            case m.Ping():
                self.say(m.Pong(message.nonce))
            case m.Pong():
                pass
            case m.Goodbye() | m.Sessions() | m.Watching() | m.Event():
                events.append((None, message))
            case _:
                assert_never(message)
        self.phase = phase

    def _welcomed(self, welcome: m.Welcome, events: list[ClientEvent[WaiterT]]) -> None:
        if welcome.version != m.VERSION:
            raise VersionMismatch(
                f"expected protocol version {m.VERSION}, got {welcome.version}"
            )
        trouble = unusable(welcome.limits)
        if trouble:
            raise RemoteProtocolError(trouble)
        before = self.welcome
        self.welcome = welcome
        self.phase = Phase.READY
        self._outbox.peer = welcome.limits
        events.append((None, welcome))
        replaced = before is not None and before.incarnation != welcome.incarnation
        for session in list(self.sessions.values()):
            # The other server knows nobody by these ids, or somebody else.
            is_stale = replaced and (session.id or type(session.opening) is m.TakeOver)
            if not session.id and not is_stale:
                self.say(session.opening)
            elif is_stale:
                assert before is not None
                self._lose(
                    session,
                    m.Ended(
                        session.handle,
                        "session_lost",
                        "expected the server's incarnation "
                        f"{before.incarnation!r}, got {welcome.incarnation!r}: the "
                        "server was replaced and the session is gone",
                    ),
                    events,
                )
            else:
                self.say(m.Resume(session.handle, session.opening.key))

    def _opened(self, message: m.Opened, events: list[ClientEvent[WaiterT]]) -> None:
        session = self.sessions.get(message.handle)
        if session is None:
            return
        session.id = message.session
        session.environment = message.environment
        session.opened = True
        is_new = session.pending is not None and message.seq == session.seq - 1
        if message.seq != session.seq and not is_new:
            # Costs this session alone: the others know where they are.
            text = f"expected the session at request {session.seq}, got {message.seq}"
            self.say(m.Cancel(session.handle, 0))
            self._lose(session, m.Ended(session.handle, "session_lost", text), events)
            return
        events.append((session, message))
        pending = session.pending
        if pending is None:
            return
        if session.cancelling and self._outbox.takes(len(pending)):
            # First, so that a request that did not arrive before never begins.
            self.say(m.Cancel(session.handle, session.seq))
        self._send_again(session, pending, events)

    def _send_again(
        self,
        session: ClientSession[WaiterT],
        pending: bytes,
        events: list[ClientEvent[WaiterT]],
    ) -> None:
        try:
            self.send(pending)
        except LocalProtocolError as error:
            # It was made while the limits were not known, and the server never saw it:
            # its number is free again.
            self._failed(
                m.failure(
                    session.handle,
                    session.seq,
                    "too_large",
                    error.message,
                    detail=error.detail,
                ),
                events,
            )
            session.seq -= 1

    def _answered(self, reply: m.Reply, events: list[ClientEvent[WaiterT]]) -> None:
        session = self.sessions.get(reply.handle)
        # A reply may come twice: once by itself, once because we asked again.
        if session is None or reply.seq != session.seq or session.pending is None:
            return
        session.pending = None
        session.cancelling = False
        events.append((session, reply))

    def _failed(self, failure: m.Failure, events: list[ClientEvent[WaiterT]]) -> None:
        if failure.handle is None:
            if failure.detail is not None and "watch" in failure.detail:
                events.append((None, failure))
                return
            raise error_of(failure)
        if self.phase is Phase.GREETING:
            raise error_of(failure)
        session = self.sessions.get(failure.handle)
        if session is None:
            return
        if failure.seq is None:
            # The session could not be opened or resumed.
            self._end(session, error_of(failure))
            events.append((session, failure))
        elif failure.seq == session.seq and session.pending is not None:
            session.pending = None
            session.cancelling = False
            events.append((session, failure))

    def _lose(
        self,
        session: ClientSession[WaiterT],
        ended: m.Ended,
        events: list[ClientEvent[WaiterT]],
    ) -> None:
        kind = SessionClosed if ended.code == "session_closed" else SessionLost
        executed: Executed = "no" if session.pending is None else "unknown"
        self._end(
            session,
            kind(ended.message, code=ended.code, executed=executed),
        )
        events.append((session, ended))

    def _end(self, session: ClientSession[WaiterT], error: OpenEnvError) -> None:
        session.ended = error
        session.pending = None
        session.opened = False
        self.sessions.pop(session.handle, None)


def check_timeout(timeout: object, what: str = "timeout") -> None:
    """Check a number of seconds, before anything depends on it.

    Raises:
        LocalProtocolError: It is no positive, finite number.
    """
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout < float("inf")
    ):
        raise LocalProtocolError(
            f"expected a positive number of seconds as {what}, got {timeout!r}"
        )


def check_seed(seed: object) -> int:
    """Take any integer, NumPy's as well.

    Raises:
        LocalProtocolError: It is no integer, or none of 64 bits.
    """
    try:
        number = operator.index(seed)  # type: ignore[arg-type]  # raises for others
    except TypeError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise LocalProtocolError(
            f"expected an integer of 64 bits as seed, got {seed!r}",
            code="invalid_action",
        )
    return number


def error_of(failure: m.Failure) -> OpenEnvError:
    """The exception that a failure on the wire stands for."""
    return error_from_code(
        failure.code,
        failure.message,
        executed=failure.executed,
        retryable=failure.retryable,
        fault=failure.fault,
        detail=failure.detail,
    )


def ended_again(error: OpenEnvError) -> OpenEnvError:
    """A fresh copy of the reason why a session ended, for each call that meets it."""
    again = type(error)(
        error.message,
        code=error.code,
        executed="no",
        retryable=False,
        fault=error.fault,
        detail=error.detail,
    )
    return again


def decode_error(error: Exception) -> RemoteProtocolError:
    """The server sent a payload that does not fit the client's type."""
    return RemoteProtocolError(
        f"expected a payload of the client's type: {error}", executed="yes"
    )
