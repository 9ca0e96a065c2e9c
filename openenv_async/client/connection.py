"""One socket to a server, shared by many sessions, that survives its own loss."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, Protocol, TypeAlias

import anyio

from .. import messages as m
from .._aio import SPIN_SESSIONS, SPIN_WINDOW, Spinner, Tasks
from ..errors import (
    ConnectFailed,
    LocalProtocolError,
    OpenEnvError,
    RemoteProtocolError,
    SessionLost,
)
from ..protocol import ClientProtocol, ClientSession
from .carriers import Socket
from .endpoint import Endpoint
from .transport import SpeaksDialect, open_websocket

__all__ = [
    "ANSWER",
    "PROBE",
    "Connection",
    "ConnectionOptions",
    "Diagnose",
    "Waiter",
    "closing",
]

_logger = logging.getLogger("openenv_async.client")

_CLIENT: Final = "openenv-async"
_BACKOFF: Final = (0.02, 2.0)
"""Seconds before the first and, at most, between later attempts to reconnect."""
_CLOSE_TIMEOUT: Final = 1.0
_CLOSE_PATIENCE: Final = 10.0
"""Seconds that the server has to close environments."""
_LOST_PATIENCE: Final = 1.0
"""The same while the connection is lost: their leases will close them anyway."""
_LOOK: Final = 0.25
"""Seconds between looks whether somebody is there while sessions are closed."""
_TICK: Final = 1.0
PROBE: Final = 2.0
"""Seconds without an answer to a request after which the server is pinged."""
ANSWER: Final = 3.0
"""Seconds in which it has to answer that; both are a heartbeat at most."""
_DEADLINE_SLACK: Final = 5.0
"""Seconds past its deadline after which a call stops waiting for the server's word."""


class Waiter(Protocol):
    """Whoever waits for what happens on a session."""

    def deliver(self, message: m.ServerMessage) -> None:
        """Take a message of the session; must not raise."""


Diagnose: TypeAlias = Callable[[], Awaitable[OpenEnvError | None]]
"""Tells why a server has ended by itself, if it has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What makes two connections to the same server different.

    Args:
        token: Bearer token.
        connect_timeout: Seconds for the first connection.
        reconnect_timeout: Seconds of trying before sessions count as lost.
        spin: Seconds of polling after traffic, while few sessions are active.
        limits: What this side accepts, and its heartbeat.
        dialect: Whether to speak OpenEnv's dialect at once, without asking for ours.
        headers: More HTTP headers for handshakes.
    """

    token: str | None = None
    connect_timeout: float = 10.0
    reconnect_timeout: float = 60.0
    spin: float = SPIN_WINDOW
    limits: m.Limits = dataclasses.field(default_factory=m.Limits)
    dialect: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        token = self.token
        if token is not None and not (token.isascii() and token.isprintable()):
            raise LocalProtocolError(
                "expected a token of printable ASCII characters, got another one"
            )


class Connection:
    """A socket to one server, with reconnect and resume.

    Sessions take it with `acquire` and give it back with `release`; the last one
    closes it. When the socket drops, it is opened again with growing pauses, and every
    session goes on where it was, or learns that it is lost.

    Args:
        endpoint: Where the server is.
        options: See `ConnectionOptions`.
        diagnose: Tells why the server has ended by itself, if it has: then nobody
            tries to reach it any longer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ConnectionOptions,
        diagnose: Diagnose | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._diagnose = diagnose
        self.options = options
        self.users = 0
        """Sessions that use this connection."""
        self.error: OpenEnvError | None = None
        """Why the connection is over for good."""
        self.reconnects = 0
        """How often the socket was opened again."""
        self.protocol: ClientProtocol[Waiter] = ClientProtocol(
            codec=m.MSGPACK,
            client=_CLIENT,
            limits=options.limits,
            wake=self._schedule_flush,
        )
        self.loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._greeted = asyncio.Event()
        self._greeting: asyncio.Future[None] = self.loop.create_future()
        self._tasks = Tasks()
        self._spinner = Spinner(options.spin)
        self._scheduled = False
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadlines: dict[ClientSession[Waiter], tuple[int, float]] = {}
        self._others: dict[int, Waiter] = {}
        self._next_id = 1

    # Coming and going

    def acquire(self, count: int = 1) -> None:
        """Take the connection for sessions, and begin to connect if need be."""
        self.users += count
        if self._timer is None and self.error is None and not self._closing:
            self._next_tick()
            self._tasks.spawn(self._connect_first(), "openenv-async-connect")

    async def wait_greeted(self) -> None:
        """Wait until the connection can be used.

        Raises:
            ConnectFailed: There is no server.
            Unauthorized: The token is missing or wrong.
            RemoteProtocolError: It speaks something else.
        """
        await self._greeted.wait()
        if self.error is not None:
            raise _again(self.error)

    def release(self, count: int = 1) -> bool:
        """Give the connection back; returns whether nobody uses it any more."""
        self.users -= count
        return self.users <= 0

    async def aclose(self) -> None:
        """Close the socket and end the connection's tasks; idempotent."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self.error is None:
            self.error = ConnectFailed("the connection was closed", retryable=False)
        self._greeted.set()
        socket = self._socket
        try:
            if socket is not None:
                self.protocol.goodbye()
                self.flush()
                await socket.aclose(_CLOSE_TIMEOUT)
        finally:
            if isinstance(self.error, SpeaksDialect):
                self.error.drop()
            await self._tasks.aclose()

    # Connecting

    async def _connect_first(self) -> None:
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                await self._connect()
        except TimeoutError:
            self._fail(
                ConnectFailed(
                    f"expected an answer from {self.endpoint.url!r} within "
                    f"{self.options.connect_timeout} s"
                )
            )
        except OpenEnvError as error:
            self._fail(await self._cause() or error)
        except Exception as error:
            _logger.warning("= %s: cannot connect", self.endpoint.url, exc_info=error)
            text = f"expected a server at {self.endpoint.url!r}: {error!r}"
            self._fail(ConnectFailed(text, retryable=False))

    async def _cause(self) -> OpenEnvError | None:
        """Why nobody will ever answer at this address again, if that is so."""
        return None if self._diagnose is None else await self._diagnose()

    async def _connect(self) -> None:
        """Open the socket and wait for the greeting."""
        protocol = self.protocol
        greeting = self._greeting = self.loop.create_future()
        socket = await open_websocket(
            self.endpoint,
            subprotocol=protocol.codec.subprotocol,
            token=self.options.token,
            is_text=protocol.codec.is_text,
            max_size=self.options.limits.frame_bytes,
            received=self._received,
            writable=self._schedule_flush,
            lost=self._lost,
            headers=self.options.headers,
        )
        if socket.is_closed:
            raise ConnectFailed(f"{self.endpoint.url!r} ended the connection")
        self._socket = socket
        protocol.connection_made(perf_counter())
        try:
            await greeting
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """End the socket, and expect nothing more from it."""
        socket, self._socket = self._socket, None
        if socket is not None:
            self.protocol.connection_lost()
            socket.abort()

    async def _reconnect(self) -> None:
        """Open the socket again, with pauses that grow and vary.

        Full jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog,
        2015), so that many clients of a restarted server do not come all at once.
        """
        pause, most = _BACKOFF
        give_up = perf_counter() + self.options.reconnect_timeout
        problem: OpenEnvError | None = None
        while perf_counter() < give_up:
            await anyio.sleep(random.uniform(0.0, pause))
            pause = min(pause * 2, most)
            try:
                async with asyncio.timeout(self.options.connect_timeout):
                    await self._connect()
            except TimeoutError:
                problem = ConnectFailed("no answer in time")
            except ConnectFailed as error:
                problem = error
            except OpenEnvError as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 (what failed once may be over)
                problem = ConnectFailed(repr(error))
            else:
                self.reconnects += 1
                _logger.info("= %s: connected again", self.endpoint.url)
                return
            if self.error is not None:
                return
            _logger.debug("= %s: %s", self.endpoint.url, problem)
            died = await self._cause()
            if died is not None:
                self._fail(died)
                return
        self._fail(
            ConnectFailed(
                f"expected to reach {self.endpoint.url!r} again within "
                f"{self.options.reconnect_timeout} s: {problem}"
            )
        )

    def _lost(self, socket: Socket) -> None:
        """The socket is gone."""
        if socket is not self._socket:
            return  # In its handshake, which tells whoever waits; or dropped by us.
        self._socket = None
        self.protocol.connection_lost()
        for waiter in list(self._others.values()):
            # Lists and watches belong to the socket; nobody resumes them.
            waiter.deliver(
                m.failure(None, None, "session_lost", "the connection was lost")
            )
        if self._closing or self.error is not None:
            return
        if not self._greeting.done():
            # Whoever connects decides whether to try again.
            self._greeting.set_exception(
                ConnectFailed(
                    f"expected a greeting from {self.endpoint.url!r}, but the "
                    "connection ended"
                )
            )
            return
        _logger.info("= %s: connection lost", self.endpoint.url)
        self._tasks.spawn(self._reconnect(), "openenv-async-reconnect")

    def _fail(self, error: OpenEnvError) -> None:
        """Give up for good: every session is lost."""
        if self.error is not None:
            return
        self.error = error
        self._greeted.set()
        for session in list(self.protocol.sessions.values()):
            self._lose(
                session,
                SessionLost(
                    f"the connection is lost for good: {error}",
                    executed="no" if session.pending is None else "unknown",
                    detail=error.detail,
                ),
            )
        if self._socket is not None:
            self._socket.abort()

    def _lose(self, session: ClientSession[Waiter], error: OpenEnvError) -> None:
        pending = session.pending is not None
        # Where the server still listens, it must not keep what nobody will use.
        self.protocol.abandon(session)
        session.ended = error
        session.pending = None
        waiter = session.waiter
        if waiter is not None and (pending or not session.id):
            waiter.deliver(
                m.failure(
                    session.handle,
                    session.seq or None,
                    "session_lost",
                    error.message,
                    executed=error.executed,
                    detail=error.detail or None,
                )
            )

    # Receiving

    def _received(self, frame: bytes) -> None:
        if self.users <= SPIN_SESSIONS:
            self._spinner.touch()
        try:
            events = self.protocol.receive(frame, perf_counter())
        except OpenEnvError as error:
            if isinstance(error, RemoteProtocolError):
                _logger.warning("< %s: %s", self.endpoint.url, error)
            self._fail(error)
            return
        for session, message in events:
            if session is not None:
                waiter = session.waiter
                if waiter is not None:
                    waiter.deliver(message)
            else:
                self._about_connection(message)

    def _about_connection(self, message: m.ServerMessage) -> None:
        match message:
            case m.Welcome():
                self._greeted.set()
                if not self._greeting.done():
                    self._greeting.set_result(None)
            case m.Goodbye():
                _logger.info("< %s: goodbye, %s", self.endpoint.url, message.reason)
            case m.Sessions() | m.Watching() | m.Event():
                waiter = self._others.get(message.id)
                if waiter is not None:
                    waiter.deliver(message)
            case m.Failure(detail={"watch": int(number)}):
                waiter = self._others.get(number)
                if waiter is not None:
                    waiter.deliver(message)
            case _:
                pass

    # Lists and watches

    def subscribe(self, waiter: Waiter) -> int:
        """Take a number for a list or a watch; messages with it go to the waiter."""
        number = self._next_id
        self._next_id += 1
        self._others[number] = waiter
        return number

    def unsubscribe(self, number: int) -> None:
        """Give a number back."""
        self._others.pop(number, None)

    # Sending

    def send_step_alone(
        self, session: ClientSession[Waiter], action: object, timeout: float | None
    ) -> None:
        """Send a step at once, because no other session could add to its frame."""
        self._scheduled = True
        try:
            self.protocol.step(session, action, timeout)
        finally:
            self.flush()

    def _schedule_flush(self) -> None:
        """Send at the end of this turn of the loop, together with what still comes."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what waits now, as far as the kernel takes it."""
        self._scheduled = False
        socket = self._socket
        if socket is None:
            return
        protocol = self.protocol
        while not socket.paused:
            frame = protocol.next_frame()
            if frame is None:
                break
            socket.send(frame)
        if self.users <= SPIN_SESSIONS:
            self._spinner.touch()

    # Time

    def guard(self, session: ClientSession[Waiter], timeout: float) -> None:
        """Stop waiting for a call some time after its deadline, whatever happens.

        The server keeps deadlines exactly; this one is for a server that cannot.
        """
        deadline = perf_counter() + timeout + _DEADLINE_SLACK
        self._deadlines[session] = session.seq, deadline

    def _tick(self) -> None:
        now = perf_counter()
        if self._socket is not None and not self.protocol.tick(now):
            _logger.warning("= %s is silent: connection dropped", self.endpoint.url)
            self._socket.abort()
        self._probe(now)
        # At once: what blocks the loop next must not pass for the server's silence.
        self.flush()
        for session, (seq, deadline) in list(self._deadlines.items()):
            if session.pending is None or session.seq != seq:
                del self._deadlines[session]
            elif deadline <= now:
                del self._deadlines[session]
                self._lose(
                    session,
                    SessionLost(
                        "the server did not keep the deadline of a call",
                        executed="unknown",
                    ),
                )
        self._next_tick()

    def silence(self, session: ClientSession[Waiter] | None = None) -> float:
        """Seconds since the last sign of life, where pings are left unanswered.

        Args:
            session: Makes no difference: all share the socket.
        """
        if self._socket is None:
            return 0.0
        patience = min(ANSWER, self.protocol.limits.heartbeat)
        return self.protocol.silence(perf_counter(), patience)

    def _probe(self, now: float) -> None:
        """Find out soon whether anybody is there to answer what waits."""
        if any(one.pending is not None for one in self.protocol.sessions.values()):
            self.protocol.probe(now, min(PROBE, self.protocol.limits.heartbeat))

    def _next_tick(self) -> None:
        interval = min(_TICK, self.options.limits.heartbeat / 4)
        self._timer = self.loop.call_later(interval, self._tick)


class _Reachable(Protocol):
    @property
    def ready(self) -> bool: ...


class _Connected(Protocol):
    @property
    def protocol(self) -> _Reachable: ...

    def silence(self) -> float: ...


@asynccontextmanager
async def closing(connections: Iterable[_Connected]) -> AsyncGenerator[None]:
    """Bound a block that closes sessions: where nobody is there to do it, to a moment.

    Raises:
        TimeoutError: It took too long.
    """
    loop = asyncio.get_running_loop()
    links = list(connections)
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        if all(link.protocol.ready and not link.silence() for link in links):
            timer = loop.call_later(_LOOK, look)
        elif not scope.expired():
            scope.reschedule(loop.time() + _LOST_PATIENCE)

    async with asyncio.timeout(_CLOSE_PATIENCE) as scope:
        look()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


def _again(error: OpenEnvError) -> OpenEnvError:
    """A fresh copy for each caller, because a traceback belongs to one of them."""
    return type(error)(
        error.message,
        code=error.code,
        executed=error.executed,
        retryable=error.retryable,
        fault=error.fault,
        detail=error.detail,
    )
