"""Sessions with a server that speaks OpenEnv's dialect: a socket for each of them.

It stands where a `Connection` stands, so that sessions and batches need not know. What
the dialect does not have is refused or said, never made up: a server cannot stop a
request, keeps no reply, and a plain session goes with its socket. One that was asked to
outlive it (`lease`) is made over HTTP, where the server can do that, and attached to
again; `dialect_counter` says what that proves about a lost step.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Final, cast

from .. import messages as m
from .._aio import SPIN_SESSIONS, Spinner
from ..dialect import (
    CloseFrame,
    StateFrame,
    encode,
)
from ..errors import (
    ConnectFailed,
    LocalProtocolError,
    OpenEnvError,
    SessionClosed,
)
from ..protocol import ClientSession
from ..protocol.client import check_seed, check_timeout, ended_again
from ..protocol.connection import UNENCODABLE
from .connection import ANSWER, PROBE, ConnectionOptions, Diagnose, Waiter
from .dialect_line import Call, DialectLine
from .dialect_opener import DialectOpener
from .endpoint import Endpoint
from .transport import WebSocket

__all__ = ["DialectLink"]

_logger = logging.getLogger("openenv_async.client")

_SILENCE: Final = 3
"""Heartbeats without a sign of life after which a connection counts as gone."""
_CLOSE: Final = encode(CloseFrame())
_STATE: Final = encode(StateFrame())


class DialectLink:
    """The way of many sessions to one server, a socket each.

    Args:
        endpoint: Where the server is.
        options: See `ConnectionOptions`; each try to connect has `connect_timeout`.
        diagnose: Tells why the server has ended by itself, if it has.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ConnectionOptions,
        diagnose: Diagnose | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.options = options
        self.users = 0
        """Sessions that use it."""
        self.error: OpenEnvError | None = None
        """Why it is over for good."""
        self.loop = asyncio.get_running_loop()
        self._lines: dict[int, DialectLine] = {}
        self._next_handle = 1
        self._opener = DialectOpener(endpoint, options, diagnose)
        self._spinner = Spinner(options.spin)
        self._asked: dict[DialectLine, float] = {}
        """When each was pinged since it was last heard of."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_warned = False

    # What a session sees of a connection

    @property
    def protocol(self) -> DialectLink:
        """Takes the sessions' requests: there is nothing between them and sockets."""
        return self

    @property
    def ready(self) -> bool:
        """Whether somebody may answer."""
        return self.error is None

    def acquire(self, count: int = 1) -> None:
        """Take it for sessions."""
        self.users += count
        if self._timer is None and self.error is None:
            self._next_tick()

    async def wait_greeted(self) -> None:
        """Return at once: each session connects, and learns of trouble, by itself."""

    def release(self, count: int = 1) -> bool:
        """Give it back; returns whether nobody uses it any more."""
        self.users -= count
        return self.users <= 0

    async def aclose(self) -> None:
        """Drop all sockets, end what outlives them and all tasks; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self.error is None:
            self.error = ConnectFailed("the connection was closed", retryable=False)
        for line in list(self._lines.values()):
            self.abandon(line.session)
        await self._opener.aclose()

    def flush(self) -> None:
        """Nothing waits: each frame left when it was made."""

    def touch(self) -> None:
        """There was traffic."""
        if self.users <= SPIN_SESSIONS:
            self._spinner.touch()

    def send_step_alone(
        self, session: ClientSession[Waiter], action: object, timeout: float | None
    ) -> None:
        """Send a step; each is alone on its socket."""
        self.step(session, action, timeout)

    def guard(self, session: ClientSession[Waiter], timeout: float) -> None:
        """Stop waiting for a call at its deadline: no server keeps it."""
        line = self._lines.get(session.handle)
        if line is not None and session.pending is not None:
            line.guard(timeout)

    def subscribe(self, waiter: Waiter) -> int:
        """Refuse: there are no lists and no watches.

        Raises:
            LocalProtocolError: Always.
        """
        raise self._unsupported("lists and watches of sessions")

    def unsubscribe(self, number: int) -> None:
        """Nothing was subscribed."""

    def say(self, message: m.ClientMessage) -> None:
        """Refuse: every frame belongs to a session.

        Raises:
            LocalProtocolError: Always.
        """
        raise self._unsupported(f"messages like {type(message).__name__!r}")

    def _unsupported(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(
            f"expected a server that has {what}, but {self.endpoint.url!r} speaks "
            "OpenEnv's dialect, which has none"
        )

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
    ) -> ClientSession[Waiter]:
        """Begin a session; `Opened` or `Failure` will say what became of it.

        Args:
            key: Not used: the dialect knows nobody.
            environment: Not checked: the dialect has one environment and no names.
            owner: Not used.
            lease: Seconds for which to attach again when the socket drops; None or 0
                keeps the session no longer than the socket.
            wait: Seconds to try again while the server is full.
            hold: Not used: nobody can take a session over.
        """
        if environment is not None and not self._is_warned:
            self._is_warned = True
            _logger.warning(
                "= %s speaks OpenEnv's dialect, which has no names: whether it serves "
                "%r was not checked",
                self.endpoint.url,
                environment,
            )
        handle = self._next_handle
        self._next_handle += 1
        session: ClientSession[Waiter] = ClientSession(
            m.Open(handle, key, environment, owner, lease, wait, hold)
        )
        line = self._lines[handle] = DialectLine(session, self)
        line.task = self._opener.tasks.spawn(
            self._opener.open(line), "openenv-async-open"
        )
        return session

    def take_over(
        self, key: str, session: str, *, lease: float
    ) -> ClientSession[Waiter]:
        """Refuse: sessions belong to their sockets.

        Raises:
            LocalProtocolError: Always.
        """
        raise self._unsupported("sessions to take over")

    def hand_back(self, session: ClientSession[Waiter]) -> None:
        """Nothing was taken over."""

    def reset(
        self,
        session: ClientSession[Waiter],
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: object = None,
        timeout: float | None = None,
    ) -> None:
        """Send a reset; options are arguments beside seed and episode id there."""
        data: dict[str, object] = dict(cast(dict[str, object], options or {}))
        if seed is not None:
            data["seed"] = check_seed(seed)
        if episode_id is not None:
            data["episode_id"] = episode_id
        self._request(session, Call.RESET, data, timeout)

    def step(
        self, session: ClientSession[Waiter], action: object, timeout: float | None
    ) -> None:
        """Send a step."""
        self._request(session, Call.STEP, action, timeout)

    def state(
        self, session: ClientSession[Waiter], timeout: float | None = None
    ) -> None:
        """Ask for the state."""
        if timeout is not None:
            check_timeout(timeout)
        self._line(session).request(Call.STATE, _STATE)

    def mcp(self, session: ClientSession[Waiter], request: object) -> None:
        """Send a JSON-RPC request to the session's tools."""
        self._request(session, Call.MCP, request, None)

    def _request(
        self,
        session: ClientSession[Waiter],
        call: Call,
        data: object,
        timeout: float | None,
    ) -> None:
        if timeout is not None:
            check_timeout(timeout)
        try:
            encoded = encode(data)
        except UNENCODABLE as error:
            raise LocalProtocolError(
                f"expected a payload that JSON can encode: {error}",
                code="invalid_action",
            ) from error
        if not encoded.startswith(b"{"):
            raise LocalProtocolError(
                f"expected a payload that is an object in OpenEnv's dialect, got "
                f"{type(data).__name__}",
                code="invalid_action",
            )
        frame = b'{"type":"%s","data":%s}' % (call.value.encode(), encoded)
        self._line(session).request(call, frame)

    def _line(self, session: ClientSession[Waiter]) -> DialectLine:
        line = self._lines.get(session.handle)
        if line is None:
            raise ended_again(session.ended or SessionClosed("the session was closed"))
        return line

    def cancel(self, session: ClientSession[Waiter]) -> None:
        """Wait for the reply of the request in flight: it cannot be stopped."""
        line = self._lines.get(session.handle)
        if line is not None:
            line.cancel()

    def is_held_up(self, session: ClientSession[Waiter]) -> bool:
        """Whether a call that was given up still runs, and the next one would wait.

        Only asked while no call is awaited. A session with a lease is never held up:
        it is worth the wait, and reads its state without being asked.
        """
        line = self._lines.get(session.handle)
        return line is not None and not line.attach_id and line.has_unread

    def close(
        self, session: ClientSession[Waiter], timeout: float | None = None
    ) -> None:
        """End the session; its reply comes when the server has let the socket go."""
        line = self._line(session)
        is_held_up = line.has_unread
        line.request(Call.CLOSE, _CLOSE)
        line.guard(self.options.connect_timeout if timeout is None else timeout)
        if line.task is not None:
            line.task.cancel()  # It attaches again.
        if line.socket is None or is_held_up:
            # The server would read the frame only after what still runs there.
            line.drop()
            self._finish(line)

    def abandon(self, session: ClientSession[Waiter]) -> None:
        """Give a session up, opened or not, and have the server close it."""
        line = self._lines.get(session.handle)
        self.forget(session)
        if line is not None and line.attach_id:
            self._opener.end_later(line)

    def forget(self, session: ClientSession[Waiter]) -> None:
        """Drop a session and its socket."""
        line = self._lines.get(session.handle)
        if session.ended is None:
            session.ended = SessionClosed("the session was closed")
        if line is not None:
            self.ended(line)
            line.drop()
            if line.task is not None:
                line.task.cancel()

    # Sockets

    def adopt(self, socket: WebSocket) -> None:
        """Take an open socket for the next session."""
        self._opener.adopt(socket)

    def socket_lost(self, line: DialectLine, ending: str) -> None:
        """A line's socket is gone: attach again, or tell that the session is lost."""
        if line.call is Call.CLOSE and line.session.pending is not None:
            self._finish(line)
            return
        _logger.info("= session %s: %s", line.session.id, ending)
        opener = self._opener
        what = opener.attach_again if line.attach_id else opener.lose
        line.task = opener.tasks.spawn(what(line, ending), "openenv-async-lost")

    def _finish(self, line: DialectLine) -> None:
        """The socket is gone as its client asked; say so when the session is, too."""
        if line.attach_id:
            self._opener.end_later(line)
        else:
            self.loop.call_soon(line.closed)

    def ended(self, line: DialectLine) -> None:
        """A line is over."""
        self._lines.pop(line.session.handle, None)
        self._asked.pop(line, None)

    # Time

    def _tick(self) -> None:
        now, heartbeat = perf_counter(), self.options.limits.heartbeat
        for line in list(self._lines.values()):
            socket = line.socket
            if socket is None:
                continue
            asked = self._asked.get(line, 0.0)
            if socket.heard:
                if line.session.pending is not None or now - asked >= heartbeat:
                    self._asked[line] = now
                    socket.ping()
            elif now - asked >= _SILENCE * heartbeat:
                _logger.warning(
                    "= session %s: the server is silent, connection dropped",
                    line.session.id,
                )
                socket.abort()
        self._next_tick()

    def _next_tick(self) -> None:
        interval = min(PROBE, self.options.limits.heartbeat)
        self._timer = self.loop.call_later(interval, self._tick)

    def silence(self, session: ClientSession[Waiter] | None = None) -> float:
        """Seconds since the last sign of life, where pings are left unanswered."""
        if session is None:
            lines = list(self._lines.values())
        else:
            line = self._lines.get(session.handle)
            lines = [] if line is None else [line]
        return min(map(self._silence_of, lines), default=0.0)

    def _silence_of(self, line: DialectLine) -> float:
        asked, socket = self._asked.get(line), line.socket
        if asked is None or socket is None or socket.heard:
            return 0.0
        silence = perf_counter() - asked
        patience = min(ANSWER, self.options.limits.heartbeat)
        return silence if silence >= patience else 0.0
