"""`EnvClient`: one session, awaited call by call."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .. import messages as m
from .._aio import SPIN_WINDOW, shielded
from ..environment import type_arguments
from ..errors import (
    LocalProtocolError,
    OpenEnvError,
    SessionClosed,
    StepInterrupted,
)
from ..protocol import ClientSession
from ..providers import Placer, Provider, Served, placer_of
from .connection import ConnectionOptions, Waiter, closing
from .factories import Factories
from .links import Link
from .payloads import Payloads, not_open, refusal, unwrap
from .results import StepResult
from .seats import Seat, leave_seats, take_seats

if TYPE_CHECKING:
    from .sync import SyncEnv

__all__ = ["EnvClient", "GenericEnv"]

_logger = logging.getLogger("openenv_async.client")

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")
SelfT = TypeVar("SelfT", bound="EnvClient[Any, Any, Any]")

_CLOSE_TIMEOUT: Final = 10.0
"""Seconds that a session's environment has to close."""


class EnvClient(Factories[ActT, ObsT, StateT]):
    """One session with an environment.

    Subclass it with the environment's types and write nothing else:
    `class EchoEnv(EnvClient[EchoAction, EchoObservation, State]): ...`

    Use it as an async context manager. All sessions of a process with the same server
    share its sockets; calls on different sessions never disturb each other, and a
    second call on a session while one is in flight raises `SessionBusy`.

    A server of OpenEnv's is spoken to in its own dialect, with a socket a session. It
    cannot stop a call, so a cancelled one is waited for by the next; and with its
    socket a session is lost, unless it has a `lease`.

    Args:
        url: `ws://host:port`, `wss://host:port` or `ws+unix:///path/to/socket`.
        provider: Starts the server, or is a fleet of them; give this or `url`.
        environment: Which of the server's environments; None takes its default.
        token: Bearer token.
        owner: A label for the server's lists.
        timeout: Seconds for each call that names no other; None has no deadline.
        capacity_timeout: Seconds to wait while the server is full.
        lease: Seconds that the session may outlive a lost connection, bounded by the
            server; None asks for the server's most. In OpenEnv's dialect None asks for
            none: a session that outlives its client stays there for good.
        hold: While somebody has taken the session over, wait instead of failing.
        take_over: Public id of somebody else's session, to drive that one instead of
            opening one; it is handed back at the end.
        connect_timeout: Seconds for the first connection.
        reconnect_timeout: Seconds of reconnecting before sessions count as lost.
        spin: Seconds of polling for a reply before the loop sleeps, while few sessions
            share the connection: a lone step takes half the time. 0 never polls.
        on_progress: Called with what a long step reports: a fraction or None, a text.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        provider: Provider | Placer | None = None,
        environment: str | None = None,
        token: str | None = None,
        owner: str = "",
        timeout: float | None = None,
        capacity_timeout: float = 0.0,
        lease: float | None = None,
        hold: bool = False,
        take_over: str | None = None,
        connect_timeout: float = 10.0,
        reconnect_timeout: float = 60.0,
        spin: float = SPIN_WINDOW,
        on_progress: Callable[[float | None, str], None] | None = None,
    ) -> None:
        if (url is None) is (provider is None):
            raise LocalProtocolError("expected a url or a provider, and not both")
        self._types = self._own_payloads()
        self._placer = placer_of(url, provider)
        self._options = ConnectionOptions(
            token=token,
            connect_timeout=connect_timeout,
            reconnect_timeout=reconnect_timeout,
            spin=spin,
        )
        self._opening: dict[str, Any] = {
            "environment": environment or self.environment,
            "owner": owner,
            "lease": lease,
            "wait": capacity_timeout,
            "hold": hold,
        }
        self._take_over = take_over
        self._timeout = timeout
        self._on_progress = on_progress
        self._seat: Seat | None = None
        self._connection: Link | None = None
        self._session: ClientSession[Waiter] | None = None
        self._future: asyncio.Future[m.ServerMessage] | None = None
        self._leftover: asyncio.Future[m.ServerMessage] | None = None
        """Resolves with what became of a call that its caller cancelled."""
        self._leftover_kind: type | None = None
        self._missed: m.ServerMessage | None = None
        """What came between a caller's cancellation and its next turn."""
        self._interrupted: StepInterrupted | None = None
        """What the next step has to say about an earlier call."""
        self._is_opened = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        found = type_arguments(cls, EnvClient)
        if found is not None and "payloads" not in cls.__dict__:
            cls.payloads = Payloads.of(*found)

    @property
    def server(self) -> Served | None:
        """The server that the session is on; None while it is not open."""
        return None if self._seat is None else self._seat.server

    def sync(self) -> SyncEnv[ActT, ObsT, StateT]:
        """The same, blocking: for scripts and for trainers without a loop."""
        module = sys.modules[f"{__package__}.sync"]
        blocking: SyncEnv[ActT, ObsT, StateT] = module.SyncEnv(self)
        return blocking

    # Opening and closing

    async def __aenter__(self: SelfT) -> SelfT:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect and open the session. Cancelling it leaves nothing behind.

        Raises:
            ConnectFailed: There is no server.
            AtCapacity: The server is full; `detail` has the numbers.
            UnknownEnvironment: The server does not host it.
            Unauthorized: The token is missing or wrong.
            ProviderError: The server could not be started.
        """
        if self._session is not None:
            raise LocalProtocolError("expected a session that is not open yet")
        try:
            (self._seat,) = await take_seats(
                self._placer, 1, self._options, sockets=None
            )
            self._connection = self._seat.connection
            protocol, key = self._connection.protocol, secrets.token_hex(16)
            self._session = (
                protocol.open(key, **self._opening)
                if self._take_over is None
                else protocol.take_over(
                    key, self._take_over, lease=self._opening["lease"] or 60.0
                )
            )
            self._session.waiter = self
            unwrapped = await self._wait_opened()
            if isinstance(unwrapped, OpenEnvError):
                raise unwrapped
            self._is_opened = True
        except BaseException:
            await shielded(self._give_back(), timeout=_CLOSE_TIMEOUT)
            raise

    async def _wait_opened(self) -> m.Reply | OpenEnvError | None:
        self._future = asyncio.get_running_loop().create_future()
        message = await self._future
        return None if isinstance(message, m.Opened) else unwrap(message)

    async def aclose(self) -> None:
        """Close the environment and give the connection back; idempotent.

        What the environment's `close()` raises is logged. Cancelling it still ends
        the session: on the server its lease does.
        """
        session = self._session
        if session is None:
            return
        try:
            if session.ended is None:
                await self._close_session(session)
        except OpenEnvError as error:
            if not isinstance(error, SessionClosed):
                _logger.warning("closing session %s: %s", session.id, error.message)
        finally:
            await shielded(self._give_back(), timeout=2 * _CLOSE_TIMEOUT)

    async def _close_session(self, session: ClientSession[Waiter]) -> None:
        assert self._connection is not None
        try:
            async with closing([self._connection]):
                if session.pending is not None:
                    self._abandon_running(session)
                if self._leftover is not None:
                    await self._leftover
                    self._leftover = None
                if self._take_over is not None:
                    await self._hand_back(session)
                    return
                self._connection.protocol.close(session)
                await self._reply(session, None, m.GetState)
                self._connection.protocol.forget(session)
        except TimeoutError:
            _logger.warning(
                "session %s did not close in time; its lease will end it", session.id
            )

    def _abandon_running(self, session: ClientSession[Waiter]) -> None:
        """Stop a call that another task still awaits, and tell that task."""
        future = self._future
        if future is not None and not future.done():
            self._abandon(m.GetState)
            future.set_result(
                m.failure(
                    session.handle,
                    session.seq,
                    "session_closed",
                    "the session was closed during the call",
                    executed="unknown",
                )
            )

    async def _hand_back(self, session: ClientSession[Waiter]) -> None:
        """Give a session back to its owner, and wait until the server says so."""
        assert self._connection is not None
        self._future = asyncio.get_running_loop().create_future()
        self._connection.protocol.hand_back(session)
        await self._future

    async def _give_back(self) -> None:
        self._is_opened = False
        self._leftover = self._interrupted = None
        session, self._session = self._session, None
        connection, self._connection = self._connection, None
        if connection is not None and session is not None:
            # Opened or not, the server must not keep it for a client that left.
            connection.protocol.abandon(session)
        seat, self._seat = self._seat, None
        if seat is not None:
            await leave_seats(self._placer, [seat])

    # Calls

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> StepResult[ObsT]:
        """Start an episode.

        Cancelling it cancels the reset on the server; the next call must be another
        `reset`.

        Args:
            seed: Makes the episode repeatable.
            episode_id: The caller's name for it.
            options: What the environment documents.
            timeout: Seconds; None takes the client's.

        Raises:
            EnvironmentFailed: The environment raised; has its traceback.
            DeadlineExceeded: It took too long.
            InvalidAction: The options do not fit.
            SessionBusy: Another call is in flight on this session.
            SessionLost: The session is gone; says whether the reset was executed.
        """
        session, protocol = self._open_session()
        if self._leftover is not None:
            await self._settle()
            self._leftover = self._interrupted = None
        timeout = self._timeout if timeout is None else timeout
        protocol.reset(
            session, seed=seed, episode_id=episode_id, options=options, timeout=timeout
        )
        reply = await self._reply(session, timeout, m.Reset)
        return self._result(session, reply, is_reset=True)

    async def step(
        self, action: ActT, *, timeout: float | None = None
    ) -> StepResult[ObsT]:
        """Perform an action; it is executed at most once, whatever the network does.

        Cancelling it cancels the step on the server. If the environment ran it all
        the same, wholly or in part, the next `step` raises `StepInterrupted`, once.

        Args:
            action: What the environment's type says.
            timeout: Seconds; None takes the client's.

        Raises:
            InvalidAction: The action does not fit; names the field. Not executed.
            ResetRequired: No episode is running. Not executed.
            EpisodeDone: The episode is over. Not executed.
            EnvironmentFailed: The environment raised; has its traceback.
            DeadlineExceeded: It took too long.
            StepInterrupted: The step before was cancelled, but executed.
            SessionBusy: Another call is in flight on this session.
            SessionLost: The session is gone; says whether the step was executed.
        """
        session, connection = self._session, self._connection
        if session is None or connection is None:
            raise not_open()
        if self._leftover is not None:
            interrupted = await self._settle()
            if interrupted is not None:
                self._leftover = self._interrupted = None
                raise interrupted
        if timeout is None:
            timeout = self._timeout
        session.sent_ns = perf_counter_ns()
        if connection.users == 1:
            connection.send_step_alone(session, action, timeout)
        else:
            connection.protocol.step(session, action, timeout)
        if timeout is not None:
            connection.guard(session, timeout)
        # What `_reply` and `_result` do, without their calls.
        future = self._future = connection.loop.create_future()
        try:
            message = await future
        except asyncio.CancelledError:
            self._abandon(m.Step)
            raise
        if type(message) is not m.Reply:
            raise refusal(message)
        types = self._types
        return StepResult(
            types.decode(types.observation, message.payload),
            perf_counter_ns() - session.sent_ns,
            message.queue_ns,
            message.environment_ns,
            message.encode_ns,
        )

    async def state(self, *, timeout: float | None = None) -> StateT:
        """Read the environment's state, without changing it.

        Raises:
            EnvironmentFailed: The environment raised; the episode goes on.
            SessionBusy: Another call is in flight on this session.
            SessionLost: The session is gone.
        """
        session, protocol = self._open_session()
        if self._leftover is not None:
            # The next step must still learn of it.
            await self._settle()
        timeout = self._timeout if timeout is None else timeout
        protocol.state(session, timeout)
        reply = await self._reply(session, timeout, m.GetState)
        state: StateT = self._types.decode(self._types.state, reply.payload)
        return state

    def _open_session(self) -> tuple[ClientSession[Waiter], Any]:
        if self._session is None or self._connection is None:
            raise not_open()
        return self._session, self._connection.protocol

    async def _reply(
        self, session: ClientSession[Waiter], timeout: float | None, kind: type
    ) -> m.Reply:
        session.sent_ns = perf_counter_ns()
        if timeout is not None:
            assert self._connection is not None
            self._connection.guard(session, timeout)
        future = self._future = asyncio.get_running_loop().create_future()
        try:
            message = await future
        except asyncio.CancelledError:
            self._abandon(kind)
            raise
        if type(message) is not m.Reply:
            raise refusal(message)
        return message

    def _result(
        self, session: ClientSession[Waiter], reply: m.Reply, *, is_reset: bool
    ) -> StepResult[ObsT]:
        return StepResult(
            self._types.decode(self._types.observation, reply.payload),
            perf_counter_ns() - session.sent_ns,
            reply.queue_ns,
            reply.environment_ns,
            reply.encode_ns,
            is_reset,
        )

    # What happens on the session

    def deliver(self, message: m.ServerMessage) -> None:
        """Take a message of the session; called by the connection."""
        future = self._future
        if type(message) is m.Reply and future is not None and not future.done():
            future.set_result(message)
            return
        if isinstance(message, m.Progress):
            self._progressed(message)
            return
        if isinstance(message, m.Opened) and self._is_opened:
            _logger.info("= session %s resumed", message.session)
            return
        if future is not None and not future.done():
            future.set_result(message)
        elif self._leftover is not None and not self._leftover.done():
            self._leftover.set_result(message)
        elif future is not None and future.cancelled():
            # The caller was cancelled in this turn, and has not noticed it yet.
            self._missed = message

    def _progressed(self, progress: m.Progress) -> None:
        if self._on_progress is not None:
            try:
                self._on_progress(progress.fraction, progress.message)
            except Exception:  # the caller's own; the connection is not only its
                _logger.exception("on_progress failed")

    # Cancelled calls

    def _abandon(self, kind: type) -> None:
        """The caller was cancelled: ask the server to stop, remember the outcome."""
        session, connection = self._session, self._connection
        future, self._future = self._future, None
        if session is None or connection is None:
            return
        self._leftover = asyncio.get_running_loop().create_future()
        self._leftover_kind = kind
        missed, self._missed = self._missed, None
        if missed is not None:
            self._leftover.set_result(missed)
        elif session.pending is not None:
            connection.protocol.cancel(session)
        elif future is not None and future.done() and not future.cancelled():
            # The reply and the cancellation came in the same turn.
            self._leftover.set_result(future.result())
        elif self._interrupted is None:
            # Nothing was sent, or nobody is there any more to tell what became of it.
            self._leftover = None

    async def _settle(self) -> StepInterrupted | None:
        """Wait for the outcome of a cancelled call; says if it was executed."""
        assert self._leftover is not None
        message = await asyncio.shield(self._leftover)
        kind, self._leftover_kind = self._leftover_kind, None
        if kind is m.Step or kind is m.Reset:
            self._interrupted = self._interruption(message)
        if self._interrupted is None:
            self._leftover = None
        return self._interrupted

    def _interruption(self, message: m.ServerMessage) -> StepInterrupted | None:
        assert self._session is not None
        if isinstance(message, m.Reply):
            interrupted = StepInterrupted(
                "an earlier call was cancelled, but the environment had executed it",
                executed="yes",
            )
            interrupted.result = self._result(self._session, message, is_reset=False)
            return interrupted
        error = refusal(message)
        if isinstance(error, SessionClosed):
            self._leftover = None
            raise error
        if error.executed == "no":
            return None
        return StepInterrupted(
            "an earlier call was cancelled while the environment ran it: the episode "
            f"cannot go on without a reset ({error.message})",
            executed=error.executed,
        )

    # About the session

    @property
    def session_id(self) -> str:
        """The session's public id; empty before it is open."""
        return "" if self._session is None else self._session.id

    @property
    def is_open(self) -> bool:
        """Whether calls are possible."""
        return self._session is not None and self._session.ended is None


class GenericEnv(EnvClient[Any, Any, Any]):
    """Any environment, untyped: dicts in, `GenericObservation` and `Array` out."""

    payloads = Payloads.generic()
