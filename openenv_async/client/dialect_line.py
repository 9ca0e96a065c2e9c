"""One session in OpenEnv's dialect: its socket, and what waits for an answer on it.

Replies carry no number, so order alone says which request one answers. A request that
somebody gave up keeps its place in the line until its reply has come: a socket with an
unread reply would pair all later ones with the wrong requests.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from .. import messages as m
from ..dialect import (
    DIALECT_CODES,
    ErrorFrame,
    FromServer,
    McpReplyFrame,
    ObservationFrame,
    StateFrame,
    StateReplyFrame,
    decode_from_server,
    encode,
    error_from_dialect,
)
from ..errors import (
    ConnectFailed,
    Executed,
    OpenEnvError,
    RemoteProtocolError,
    ResetRequired,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from ..protocol import ClientSession
from ..protocol.client import ended_again
from .carriers import Socket
from .connection import Waiter
from .dialect_counter import StepCounter
from .dialect_payloads import observation_payload, state_payload, step_count_of
from .transport import WebSocket

__all__ = ["Call", "DialectLine", "Keeper", "Verbatim", "is_last"]

_STATE: Final = encode(StateFrame())
_NOTHING: Final = m.MSGPACK.encode(None)


class Verbatim:
    """Base of waiters that want the server's frames as they came, in JSON."""


class Call(enum.Enum):
    """What a request asks for."""

    RESET = "reset"
    STEP = "step"
    STATE = "state"
    MCP = "mcp"
    CLOSE = "close"


_ANSWERS: Final[dict[Call, type]] = {
    Call.RESET: ObservationFrame,
    Call.STEP: ObservationFrame,
    Call.STATE: StateReplyFrame,
    Call.MCP: McpReplyFrame,
}


class Keeper(Protocol):
    """Whoever has the lines, and decides what becomes of one without a socket."""

    def touch(self) -> None:
        """There was traffic."""

    def socket_lost(self, line: DialectLine, ending: str) -> None:
        """A line's socket is gone; says how."""

    def ended(self, line: DialectLine) -> None:
        """A line is over."""


class _Turn:
    """A place in the line: who takes the reply."""

    __slots__ = ("take",)

    def __init__(self, take: Callable[[FromServer, bytes], None]) -> None:
        self.take = take


class DialectLine:
    """One session's conversation.

    Args:
        session: What its client holds.
        keeper: Is told when the socket is gone.
    """

    def __init__(self, session: ClientSession[Waiter], keeper: Keeper) -> None:
        self.session = session
        self.attach_id = ""
        """Id to attach by again; empty where the session goes with its socket."""
        self.call = Call.STATE
        """What the request in flight asks for."""
        self.is_sent = False
        """Whether the request in flight was written to a socket."""
        self.broken = ""
        """Why the episode cannot go on without a reset."""
        self.counter: Final = StepCounter()
        self.socket: WebSocket | None = None
        self.task: asyncio.Task[None] | None = None
        """Opens or attaches, or ends the session."""
        self._keeper = keeper
        self._turns: deque[_Turn] = deque()
        self._turn: _Turn | None = None
        """The place of the request in flight."""
        self._question: asyncio.Future[FromServer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._executed: Executed = "unknown"
        """What the end of the socket says of the request that was in flight."""
        self._last_word = ""
        """What the server said, unasked, before it ended the connection."""

    # Requests

    def request(self, call: Call, frame: bytes) -> None:
        """Take a request, and send it as soon as that is possible.

        Raises:
            SessionBusy: Another request is in flight.
            SessionClosed: The session has ended.
            ResetRequired: An earlier request of the episode was given up.
        """
        session = self.session
        if session.pending is not None:
            raise SessionBusy(
                f"expected one call at a time on a session, got {call.value!r} while "
                f"request {session.seq} is in flight"
            )
        if session.ended is not None:
            raise ended_again(session.ended)
        if self.broken and call is Call.STEP:
            raise ResetRequired(
                "expected an episode that can go on, got 'step' while the session is "
                f"broken by an earlier request ({self.broken})",
                code="episode_broken",
            )
        session.pending = frame
        session.seq += 1
        self.call = call
        self.is_sent = False
        if session.opened:
            self.send_pending()

    def send_pending(self) -> None:
        """Write the request in flight to the socket."""
        session = self.session
        if self.socket is None or session.pending is None or not self.socket.is_open:
            return
        self._turn = _Turn(self._answered)
        self._turns.append(self._turn)
        self.is_sent = True
        if self.call is Call.RESET:
            self.broken = ""
        self.socket.send(session.pending)
        if self.call is Call.RESET and self.attach_id:
            # Without a round trip of its own: it is answered after the reset.
            self.counter.begin(None)
            self._turns.append(_Turn(self._counted))
            self.socket.send(_STATE)
        self._keeper.touch()

    def guard(self, timeout: float) -> None:
        """Give the request in flight up after some seconds."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout, self._overdue, self.session.seq, timeout)

    def _overdue(self, seq: int, timeout: float) -> None:
        session = self.session
        if session.pending is None or session.seq != seq:
            return
        if self._turn is not None:
            self._turn.take = _ignore
        executed: Executed = "unknown" if self.is_sent else "no"
        text = (
            f"expected an answer within {timeout} s; OpenEnv's dialect cannot stop "
            "what runs on the server"
        )
        if self.is_sent and self.call is not Call.STATE:
            self.broken = text
        self.deliver_failure("deadline_exceeded", text, executed)

    def cancel(self) -> None:
        """The caller gave up: nothing can be stopped, so its reply will tell."""
        session = self.session
        if session.pending is None:
            return
        session.cancelling = True
        if not self.is_sent:
            self.deliver_failure("cancelled", "cancelled before it was sent", "no")

    # Answers

    def received(self, frame: bytes) -> None:
        """Take a frame from the socket."""
        self._keeper.touch()
        try:
            message = decode_from_server(frame)
            if self._turns:
                self._turns.popleft().take(message, frame)
            elif isinstance(message, ErrorFrame):
                # OpenEnv says nothing unasked but why it is about to hang up.
                self._last_word = f"{message.data.message} ({message.data.code})"
            else:
                raise RemoteProtocolError("expected no frame that nobody asked for")
        except RemoteProtocolError as error:
            executed = "no" if self.session.pending is None else error.executed
            self.end(SessionLost(error.message, executed=executed))

    def _answered(self, message: FromServer, frame: bytes) -> None:
        session = self.session
        self._stop_timer()
        if isinstance(message, ErrorFrame):
            self._refused(message)
            return
        if not isinstance(message, _ANSWERS.get(self.call, ())):
            raise RemoteProtocolError(
                f"expected an answer to {self.call.value!r}, got "
                f"{type(message).__name__}"
            )
        is_verbatim = isinstance(session.waiter, Verbatim)
        payload = frame if is_verbatim else _payload(message)
        if self.call is Call.STEP:
            self.counter.step(observed=True)
        session.pending, session.cancelling, self._turn = None, False, None
        self._deliver(m.Reply(session.handle, session.seq, m.raw(payload)))

    def _refused(self, message: ErrorFrame) -> None:
        error = error_from_dialect(message.data)
        if is_last(message):
            lost = SessionLost(
                error.message, executed=error.executed, detail=error.detail
            )
            self.end(lost)
            return
        if self.call is Call.STEP and error.executed != "no":
            self.counter.step(observed=False)
        self.deliver_failure(error.code, error.message, error.executed, error=error)

    def _counted(self, message: FromServer, _frame: bytes) -> None:
        if isinstance(message, StateReplyFrame):
            # Steps whose answers came before this one were not counted yet then, but
            # the server answers in order.
            self.counter.begin(step_count_of(message.data))

    async def ask(self, frame: bytes) -> FromServer:
        """Ask something of our own, while no request is in flight on the socket.

        Raises:
            ConnectFailed: The connection ended.
        """
        assert self.socket is not None
        question: asyncio.Future[FromServer]
        question = self._question = asyncio.get_running_loop().create_future()

        def take(message: FromServer, _frame: bytes) -> None:
            if not question.done():
                question.set_result(message)

        self._turns.append(_Turn(take))
        self.socket.send(frame)
        try:
            return await question
        finally:
            self._question = None

    async def ask_count(self) -> int | None:
        """Ask how many steps the environment has counted; None if it does not say.

        Raises:
            ConnectFailed: The connection ended.
        """
        answer = await self.ask(_STATE)
        if not isinstance(answer, StateReplyFrame):
            return None
        return step_count_of(answer.data)

    # The socket's life

    def connected(self, socket: WebSocket) -> None:
        """Talk on this socket from now on."""
        self.drop()
        self.socket = socket
        self._turns.clear()
        self._turn = None
        self._last_word = ""

    def drop(self) -> None:
        """End the socket at once, and expect nothing more from it."""
        socket, self.socket = self.socket, None
        self.session.opened = False
        if socket is not None:
            socket.abort()

    @property
    def has_unread(self) -> bool:
        """Whether a request that was given up still runs on the server."""
        return bool(self._turns)

    def lost(self, socket: Socket) -> None:
        """The socket is gone."""
        if self.socket is not socket or self.socket is None:
            return
        ending = self._ending(self.socket)
        self.socket = None
        self.session.opened = False
        question = self._question
        if question is None:
            self._keeper.socket_lost(self, ending)
        elif not question.done():
            question.set_exception(ConnectFailed(ending))

    def _ending(self, socket: WebSocket) -> str:
        """How the connection ended; notes what that says of the request in flight."""
        code, reason = socket.ending
        why = reason or self._last_word or "without a reason"
        text = f"the connection ended with code {code}: {why}"
        pending = self.session.pending
        if pending is not None and self.is_sent:
            self._executed = "unknown"
            if socket.is_overrun:
                self._executed = "yes"
                text += "; the reply is larger than this client accepts"
            elif code == 1009:
                self._executed = "no"
                text += f"; the request of {len(pending)} bytes is too large for it"
        return text

    @property
    def executed(self) -> Executed:
        """What is known of the request in flight, if there is one."""
        if self.session.pending is None or not self.is_sent:
            return "no"
        return self._executed

    @property
    def needs_count(self) -> bool:
        """Whether the count of steps may tell of a request in flight."""
        return (
            self.session.pending is not None
            and self.is_sent
            and self.call is not Call.STATE
        )

    def resume(self, count: int | None) -> None:
        """Go on after attaching again: nothing was lost but an answer, if any.

        Args:
            count: How many steps the environment has counted, where it was asked.
        """
        session = self.session
        session.opened = True
        if session.pending is None:
            return
        if not self.is_sent or self.call is Call.STATE:
            self.send_pending()
            return
        executed: Executed = "unknown"
        text = f"nothing tells whether {self.call.value!r} was executed"
        if self.call is Call.STEP:
            executed, text = self.counter.verdict(count)
        if self.call is Call.RESET:
            self.broken = text
        expected = self.counter.expected
        self.counter.begin(count)
        self.deliver_failure(
            "reply_lost",
            f"the connection was cut during the call; attached again, and {text}",
            executed,
            detail={"step_count": count, "expected_before": expected},
        )

    def end(self, error: SessionClosed) -> None:
        """The session is over; whoever waits is told."""
        session = self.session
        is_awaited = session.pending is not None or not session.id
        session.ended = error
        self._keeper.ended(self)
        self.drop()
        if is_awaited:
            self.deliver_failure(error.code, error.message, error.executed, error=error)

    def fail_to_open(self, error: OpenEnvError) -> None:
        """There will be no session; whoever waits for it is told."""
        self.session.ended = error
        self._keeper.ended(self)
        self.drop()
        self.deliver_failure(error.code, error.message, error.executed, error=error)

    # Telling the client

    def opened(self, lease: float) -> None:
        """The session can be used."""
        session = self.session
        session.opened = True
        self._deliver(m.Opened(session.handle, session.id, "", session.seq, lease))

    def closed(self) -> None:
        """The session was closed, as its client asked."""
        session = self.session
        session.pending = None
        self._deliver(m.Reply(session.handle, session.seq, m.raw(_NOTHING)))

    def deliver_failure(
        self,
        code: str,
        message: str,
        executed: Executed,
        *,
        error: OpenEnvError | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """Answer the request in flight, or the opening, with an error."""
        session = self.session
        self._stop_timer()
        session.pending, session.cancelling, self._turn = None, False, None
        plain = error or OpenEnvError("", fault="infrastructure")
        failure = m.Failure(
            session.handle,
            session.seq or None,
            code,
            message,
            executed,
            plain.retryable,
            m.CODES[code].fault if error is None else error.fault,
            detail or plain.detail or None,
        )
        self._deliver(failure)

    def _deliver(self, message: m.ServerMessage) -> None:
        if self.session.waiter is not None:
            self.session.waiter.deliver(message)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_last(message: ErrorFrame) -> bool:
    """Whether the server ends the connection after this error."""
    return any(
        row.is_last for code, row in DIALECT_CODES.items() if code == message.data.code
    )


def _ignore(_message: FromServer, _frame: bytes) -> None:
    """Nobody waits for this reply any more."""


def _payload(message: FromServer) -> bytes:
    match message:
        case ObservationFrame(data=data):
            return observation_payload(data)
        case StateReplyFrame(data=data) | McpReplyFrame(data=data):
            return state_payload(data)
        case _:
            raise RemoteProtocolError(f"expected an answer, got {message!r}")
