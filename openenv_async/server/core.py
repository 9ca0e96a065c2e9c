"""The server without its transport: sessions, hosts, back ends, time, the end."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol

import anyio

from .. import messages as m
from .._aio import SPIN_SESSIONS, SPIN_WINDOW, Spinner, Tasks
from ..environment import EnvironmentSpec
from ..errors import LocalProtocolError
from ..protocol import Channel, ServerProtocol, Session, SessionTable, Work
from .hosts import METHODS, Host, shut_down
from .inline import InlineBackend
from .lag import LagMonitor
from .pinned import threads_for
from .retirement import Retirement
from .statistics import ServerStatistics
from .threads import ThreadBackend
from .workers import IN_PROCESSES, WorkerBackend

__all__ = ["SERVER", "Link", "Machine", "ServerCore"]

_logger = logging.getLogger("openenv_async.server")

SERVER: Final = "openenv-async"
"""What the server calls itself in `welcome`."""

_TICK: Final = 1.0
"""Most seconds between two looks at heartbeats and leases."""
_STOP_PATIENCE: Final = 3.0
"""Seconds that a call has to end once its session does, before it is given up."""
_CLOSE_PATIENCE: Final = 5.0
"""Seconds that environments have to close when the server ends."""


class Machine(Protocol):
    """What a connection speaks, without its socket; `ServerProtocol` is one."""

    @property
    def peer(self) -> str:
        """What the client calls itself."""
        ...

    @property
    def close_code(self) -> int | None:
        """The WebSocket close code to end with, once nothing waits to be sent."""
        ...

    @property
    def congested(self) -> bool:
        """Whether so much waits that no more should be taken from the peer."""
        ...

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        ...

    @property
    def channels(self) -> int:
        """How many sessions are attached."""
        ...

    def receive(self, frame: bytes, now: float) -> list[Work]:
        """Take a frame; returns what has to be executed, in order."""
        ...

    def refuse_frame_type(self) -> None:
        """A binary frame came where text was expected, or the other way round."""

    def next_frame(self) -> bytes | None:
        """Take the next frame to send, or None if nothing waits."""

    def taken(self, now: float) -> None:
        """The peer has taken what was sent to it."""

    def tick(self, now: float) -> bool:
        """Let time pass; returns False when the peer has been silent too long."""
        ...

    def goodbye(self, reason: str, retry_after: float | None = None) -> None:
        """The server is about to end."""

    def connection_lost(self, now: float) -> None:
        """The socket is gone. Idempotent."""


class Link(Protocol):
    """A connection, as the core sees it."""

    @property
    def protocol(self) -> Machine:
        """What it speaks."""
        ...

    def flush(self) -> None:
        """Send what waits, without waiting for it."""

    def abort(self) -> None:
        """End the connection without a word: the peer does not listen."""


class ServerCore:
    """Everything that one server holds, whatever its transport.

    Args:
        specs: Environments by name; the first is the default.
        limits: What clients may use.
        token: Bearer token that clients must show; None lets everybody in.
        tracebacks: Whether clients see the tracebacks of environments.
        threads: Most threads for blocking environments.
        workers: Worker processes for each environment that runs in processes.
        kept_bytes: Bound for kept replies.
        spin: Seconds of polling after traffic, while few sessions are active.
    """

    def __init__(
        self,
        specs: Sequence[EnvironmentSpec],
        *,
        limits: m.Limits | None = None,
        token: str | None = None,
        tracebacks: bool = True,
        threads: int = 256,
        workers: int = 2,
        kept_bytes: int = 1024 * 1024 * 1024,
        spin: float = SPIN_WINDOW,
    ) -> None:
        self.specs = {spec.name: spec for spec in specs}
        if not specs or len(self.specs) != len(specs):
            names = [spec.name for spec in specs]
            raise LocalProtocolError(
                f"expected environments with different names, got {names!r}"
            )
        self.limits = limits or m.Limits()
        self.largest_frame = self.limits.frame_bytes
        """Most bytes of a WebSocket message, whatever is spoken."""
        self.incarnation = secrets.token_hex(8)
        self.table = SessionTable(
            list(self.specs),
            limits=self.limits,
            kept_bytes=kept_bytes,
            wake=self._released,
        )
        self.table.made_room = self._made_room
        self.links: set[Link] = set()
        self._marked: set[Link] = set()
        self._flushing = False
        self._spin = spin
        self._spinner: Spinner | None = None
        self.tasks = Tasks()
        self.statistics = ServerStatistics()
        self._token = token
        self.tracebacks = tracebacks
        self._inline = InlineBackend(self.tasks, self.flush)
        self._threads = ThreadBackend(threads=threads, adopt=self._inline.adopt)
        self._pinned: dict[str, ThreadBackend] = {}
        self._workers: dict[str, WorkerBackend] = {}
        for spec in specs:
            if spec.affinity != "none":
                self._pinned[spec.name] = threads_for(
                    spec.affinity, adopt=self._inline.adopt
                )
            if spec.execution in IN_PROCESSES:
                self._workers[spec.name] = WorkerBackend(
                    spec, workers=workers, tasks=self.tasks, tracebacks=tracebacks
                )
        self._decoders: dict[tuple[str, str], Callable[[Any], Any]] = {}
        self._lag = LagMonitor(self._inline)
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._waiting = 0
        """How many waited for capacity at the last look."""
        self._retiring: set[Session] = set()
        self._calm: asyncio.Event | None = None
        self._closed = False
        self._warm = False
        self._last_used = perf_counter()

    # Connections

    def authorize(self, token: str | None) -> bool:
        """Whether a client with this token may come in; takes constant time."""
        if self._token is None:
            return True
        return token is not None and hmac.compare_digest(
            token.encode(), self._token.encode()
        )

    @property
    def needs_token(self) -> bool:
        """Whether clients must show a token."""
        return self._token is not None

    def connect(
        self,
        codec: m.Codec,
        *,
        authorized: bool,
        wake: Callable[[], None],
        wake_later: Callable[[], None] | None = None,
    ) -> ServerProtocol:
        """Make the protocol machine of a new connection."""
        return ServerProtocol(
            self.table,
            codec=codec,
            server=SERVER,
            incarnation=self.incarnation,
            limits=self.limits,
            authorize=(lambda _token: True) if authorized else self.authorize,
            wake=wake,
            wake_later=wake_later,
        )

    def add(self, link: Link) -> None:
        """A connection is up."""
        self.links.add(link)
        self.start()

    def discard(self, link: Link) -> None:
        """A connection is gone; the leases of its sessions begin."""
        self.links.discard(link)
        self.hold()
        link.protocol.connection_lost(perf_counter())
        self._schedule()

    def hold(self) -> None:
        """Somebody wants the server to stay, although nobody is connected."""
        self._last_used = perf_counter()

    @property
    def idle_seconds(self) -> float:
        """Seconds since somebody was connected; 0 while somebody is."""
        return 0.0 if self.links else perf_counter() - self._last_used

    def mark(self, link: Link) -> None:
        """Something waits on a connection: send it after this turn's work."""
        if not self._marked and not self._flushing:
            asyncio.get_running_loop().call_soon(self.flush)
        self._marked.add(link)

    def flush(self) -> None:
        """Send what waits on the marked connections."""
        few = False
        self._flushing = True
        try:
            while self._marked:
                # An answer may become another one on another connection.
                marked, self._marked = self._marked, set()
                for link in marked:
                    link.flush()
                    few = few or 0 < link.protocol.channels <= SPIN_SESSIONS
        finally:
            self._flushing = False
        if few and self._spinner is not None:
            self._spinner.touch()

    # Requests

    async def run(self, suspending: Callable[[], None]) -> bool:
        """Run what was received on the loop, in the calling task.

        Returns True if the task had to stay with an environment that suspended;
        `suspending` was called before, and somebody else receives meanwhile.
        """
        return await self._inline.help(suspending)

    def receive(self, protocol: Machine, frame: bytes) -> None:
        """Take a frame from a connection and execute what it asks for."""
        now = perf_counter()
        ready, step = self._inline.ready, m.Step
        work = protocol.receive(frame, now)
        if work:
            self.statistics.requests += len(work)
            for item in work:
                channel, request = item
                host = channel.session.host
                # The hot path: what `_execute` and `post` do for a session that has a
                # host on the loop.
                if (
                    type(request) is step
                    and type(host) is Host
                    and host.inline
                    and host.codec is channel.codec
                ):
                    host.running = request
                    ready.append((host, request))
                else:
                    self.execute(item)
        table = self.table
        if table.waiting != self._waiting:
            self._waiting = table.waiting
            self._schedule()

    def execute(self, work: Work) -> None:
        """Execute what a protocol machine handed out."""
        channel, request = work
        session = channel.session
        host = session.host
        if not isinstance(host, Host):
            host = self._make_host(session)
        if isinstance(request, m.Cancel):
            if request.seq == 0:
                self._give_up(channel)
            else:
                self._cancel(host)
            return
        if host.codec is not channel.codec:
            host.codec = channel.codec
            host.decode_action = self._decoder(host.spec, channel.codec)
        self._submit(host, request)

    def _submit(
        self, host: Host, request: m.Reset | m.Step | m.GetState | m.Close
    ) -> None:
        execution = host.spec.execution
        if host.stuck and type(request) is m.Close:
            host.leave()
        elif execution == "inline" or (
            execution == "thread" and METHODS[type(request)] in host.spec.async_methods
        ):
            self._inline.submit(host, request)
        elif execution == "thread":
            self._threads_of(host).submit(host, request)
        else:
            self._workers[host.spec.name].submit(host, request)

    def _threads_of(self, host: Host) -> ThreadBackend:
        return self._pinned.get(host.spec.name, self._threads)

    def _cancel(self, host: Host) -> None:
        if type(host.running) is m.Close:
            return  # It ends the session, which is what whoever cancels it wants too.
        if host.spec.execution in IN_PROCESSES:
            self._workers[host.spec.name].cancel(host)
        elif host.running is not None:
            if host.spec.execution == "inline" or (
                # An awaitable that a plain method returned, or an async method.
                host.task is not None
                or METHODS[type(host.running)] in host.spec.async_methods
            ):
                self._inline.cancel(host)
            else:
                self._threads_of(host).cancel(host)

    def _make_host(self, session: Session) -> Host:
        spec = self.specs[session.environment]
        assert session.owner is not None
        codec = session.owner.codec
        host = Host(
            spec,
            session,
            codec=codec,
            decode_action=self._decoder(spec, codec),
            label=f"session {session.id} of {spec.name!r}",
            tracebacks=self.tracebacks,
            report=self._report,
        )
        host.inline = spec.execution == "inline"
        session.host = host
        return host

    def _decoder(self, spec: EnvironmentSpec, codec: m.Codec) -> Callable[[Any], Any]:
        key = spec.name, codec.encoding
        decoder = self._decoders.get(key)
        if decoder is None:
            decoder = codec.decoder(spec.action_type)
            self._decoders[key] = decoder
        return decoder

    def _report(self, host: Host, fraction: float | None, message: str) -> None:
        loop = self._lag.loop
        if threading.get_ident() == self._lag.loop_thread:
            # Now, or the reply of a step that does not suspend would overtake it.
            self._report_on_loop(host, fraction, message)
        elif loop is not None:
            loop.call_soon_threadsafe(self._report_on_loop, host, fraction, message)

    def _report_on_loop(self, host: Host, fraction: float | None, message: str) -> None:
        if host.running is not None:
            host.sink.progress(fraction, message)

    # Time

    def start(self) -> None:
        """Begin to watch time; called by the first connection. Idempotent."""
        if self._timer is None and not self._closed:
            self._lag.start()
            self._spinner = Spinner(self._spin)
            self._next_tick()
            self.warm()

    def warm(self) -> None:
        """Let processes that sessions are forked from import now. Idempotent."""
        if not self._warm:
            self._warm = True
            for backend in self._workers.values():
                backend.warm()

    def _schedule(self) -> None:
        """Have a look earlier than at the next regular tick, if a lease is short."""
        due = self.table.next_tick()
        if due is None or self._closed:
            return
        delay = max(0.0, due - perf_counter())
        if delay < _TICK:
            loop = asyncio.get_running_loop()
            if self._soon is not None:
                if self._soon.when() <= loop.time() + delay:
                    return
                self._soon.cancel()
            self._soon = loop.call_later(delay, self._tick_table_now)

    def _tick(self) -> None:
        now = perf_counter()
        for link in list(self.links):
            if not link.protocol.tick(now):
                _logger.info("= %s is silent: connection ended", link.protocol.peer)
                link.abort()
        self._tick_table(now)
        self.statistics.gather(self.table)
        self._next_tick()

    def _next_tick(self) -> None:
        interval = min(_TICK, self.limits.heartbeat / 4)
        self._timer = asyncio.get_running_loop().call_later(interval, self._tick)

    def _made_room(self) -> None:
        asyncio.get_running_loop().call_soon(self._tick_table_now)

    def _tick_table_now(self) -> None:
        self._soon = None
        if not self._closed:
            self._tick_table(perf_counter())
            self._schedule()

    def _tick_table(self, now: float) -> None:
        for session in self.table.tick(now):
            _logger.info("= session %s: lease expired", session.id)
            self._retire(session, "lease_expired")
        if self.table.released:
            released = list(self.table.released)
            self.table.released.clear()
            for work in released:
                self.execute(work)

    def _released(self) -> None:
        """A request may run now that waited for another client of its session."""
        asyncio.get_running_loop().call_soon(self._tick_table_now)

    # The end

    def _retire(self, session: Session, code: str) -> None:
        """Close a session's environment and forget it, without its client."""
        if session in self._retiring:
            return
        self._retiring.add(session)
        # What arrives from now on is refused: the environment is being closed.
        self.table.retire(session)

        def done() -> None:
            self._retiring.discard(session)
            self.table.remove(session, code)
            if not self._retiring and self._calm is not None:
                self._calm.set()

        host = session.host
        if not isinstance(host, Host):
            done()
            return
        retirement = Retirement(host, submit=self._submit, done=done)
        retirement.start()
        if host.running is not None:
            self._cancel(host)
        loop = asyncio.get_running_loop()
        loop.call_later(_STOP_PATIENCE, self._stop_hard, session, host)

    def _stop_hard(self, session: Session, host: Host) -> None:
        """A session that has to end still runs something: wait for it no longer."""
        if session not in self._retiring or self._closed:
            return
        if host.spec.execution in IN_PROCESSES:
            self._workers[host.spec.name].give_up(host)
        elif host.started_ns:
            self._threads_of(host).give_up(host)

    def _give_up(self, channel: Channel) -> None:
        """A client left its session without closing it: do that in its place."""
        if channel.guest:
            self.table.hand_back(channel)
        else:
            if channel.protocol is not None:
                channel.protocol.release(channel.handle)
            channel.detach()
            self._retire(channel.session, "session_closed")

    async def drain(self, *, timeout: float) -> None:
        """Answer what is in flight, tell clients, close every environment (3.6).

        Idempotent.

        Args:
            timeout: Seconds for the requests in flight; what runs longer is stopped.
        """
        if self.table.draining:
            return
        self.table.draining = True
        for link in self.links:
            link.protocol.goodbye("the server is shutting down", retry_after=1.0)
        self.flush()
        with anyio.move_on_after(timeout):
            # Polled once, at the end of a server, so that no step pays for an event.
            while any(  # noqa: ASYNC110 (see above)
                session.request for session in self.table.by_id.values()
            ):
                await anyio.sleep(0.01)
        self._calm = asyncio.Event()
        for session in list(self.table.by_id.values()):
            self._retire(session, "shutting_down")
        if self._retiring:
            with anyio.move_on_after(_CLOSE_PATIENCE):
                await self._calm.wait()
        self.flush()
        with anyio.move_on_after(1.0):
            while any(  # noqa: ASYNC110 (see above)
                link.protocol.pending for link in self.links
            ):
                await anyio.sleep(0.01)

    async def aclose(self) -> None:
        """End everything that still runs; idempotent."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()
        self._timer = self._soon = None
        self._inline.close()
        for pool in (self._threads, *self._pinned.values()):
            pool.close()
        for backend in self._workers.values():
            await backend.aclose()
        for spec in self.specs.values():
            await shut_down(spec)
        await self.tasks.aclose()
        await anyio.to_thread.run_sync(self._lag.stop)
        hung = 0
        for pool in (self._threads, *self._pinned.values()):
            hung += await anyio.to_thread.run_sync(pool.join, 1.0)
        if hung:
            _logger.warning("%d threads hang in an environment and were left", hung)

    def describe(self) -> dict[str, object]:
        """Counters and gauges for `/statistics` (8.2), but for what takes a file."""
        return {
            **self.statistics.describe(self.table),
            "incarnation": self.incarnation,
            "max_sessions": self.limits.sessions,
            "waiting": self.table.waiting,
            "in_flight": self._in_flight(),
            "connections": len(self.links),
            "kept_reply_bytes": self.table.kept,
            "lag_seconds": round(self._lag.lag, 6),
            "blocked": self._lag.blocked,
            "culprit": self._lag.culprit,
        }

    def _in_flight(self) -> int:
        return sum(session.request is not None for session in self.table.by_id.values())

    def capacity(self) -> dict[str, object]:
        """Numbers for `/health`."""
        sessions = len(self.table)
        return {
            "status": "draining" if self.table.draining else "healthy",
            "incarnation": self.incarnation,
            "sessions": sessions,
            "max_sessions": self.limits.sessions,
            "free": max(0, self.limits.sessions - sessions),
            "connections": len(self.links),
            "in_flight": self._in_flight(),
            "kept_reply_bytes": self.table.kept,
            "loop_lag_seconds": round(self._lag.lag, 6),
            "requests": self.statistics.requests,
            "uptime_seconds": round(self.statistics.uptime, 3),
        }
