"""OpenEnv's two WebSockets: `/ws` with its frames, `/mcp` with plain JSON-RPC.

One reply follows each request, in order, and nothing else is ever sent: OpenEnv's
clients would take it for the next reply. What cannot be read is answered with an error
and costs nothing else, even where OpenEnv itself would end the session.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, assert_never, cast

import msgspec

from ... import messages as m
from ...dialect import (
    CloseFrame,
    ErrorData,
    ErrorFrame,
    FrameProblem,
    McpFrame,
    McpReplyFrame,
    ObservationFrame,
    ResetFrame,
    RpcCode,
    RpcProblem,
    RpcRequest,
    RpcResult,
    StateFrame,
    StateReplyFrame,
    StepFrame,
    decode_from_client,
    decode_rpc_request,
    encode,
    rpc_failure,
)
from ...protocol import Work
from .hall import Hall, Shared
from .rpc import CLOSE, CREATE, close_session
from .seat import Answer, Call, Seat
from .tools import RpcAnswer, tool_action, tool_answer

__all__ = ["DialectSocket", "RpcSocket"]

_BACKLOG: Final = 64
"""Requests that may wait for the one before; then the socket is not read any more."""
_LAST: Final = ("FACTORY_ERROR", "SESSION_ERROR", "CAPACITY_REACHED")
"""Codes after which the connection closes."""
_NOTHING: Final[list[Work]] = []
_READING: Final = 1.0
"""Seconds that a refused client has to ask something, and so to read why."""


class _Socket(ABC):
    """What both have in common: a `Machine` that answers one frame after the other.

    Args:
        hall: OpenEnv's side of the server.
        wake: Called when something waits to be sent.
    """

    def __init__(self, hall: Hall, wake: Callable[[], None]) -> None:
        self.peer = "an OpenEnv client"
        self.close_code: int | None = None
        self._hall = hall
        self._wake = wake
        self._seat: Seat | None = None
        self._shared: Shared | None = None
        """The same, where HTTP reaches it too."""
        self._farewell: asyncio.TimerHandle | None = None
        """Closes the connection of a client that was refused."""
        self._busy = False
        """Whether a request waits for its answer."""
        self._frames: deque[bytes | None] = deque()
        """What came meanwhile; None for a binary frame."""
        self._out: deque[bytes] = deque()

    # What the link asks

    @property
    def congested(self) -> bool:
        """See `Machine`."""
        return len(self._frames) >= _BACKLOG or len(self._out) >= _BACKLOG

    @property
    def pending(self) -> bool:
        """See `Machine`."""
        return bool(self._out)

    @property
    def channels(self) -> int:
        """None: the seat counts itself."""
        return 0

    def next_frame(self) -> bytes | None:
        """See `Machine`."""
        return self._out.popleft() if self._out else None

    def taken(self, now: float) -> None:  # noqa: B027 (there is nothing to do)
        """See `Machine`; the socket's own pings tell whether the peer lives."""

    def tick(self, now: float) -> bool:
        """See `Machine`; the socket's own pings tell whether the peer lives."""
        return True

    def goodbye(  # noqa: B027 (there is nothing to do)
        self, reason: str, retry_after: float | None = None
    ) -> None:
        """OpenEnv has no word for it: the connection closes once its session ends."""

    def receive(self, frame: bytes, now: float) -> list[Work]:
        """Take a frame; it waits if the one before is not answered yet."""
        if self._seat is None:
            self.close()
        elif self._busy or self._frames:
            self._frames.append(frame)
            return _NOTHING
        if self.close_code is not None:
            return _NOTHING
        work = self._take(frame)
        return _NOTHING if work is None else [work]

    def refuse_frame_type(self) -> None:
        """A binary frame: answered in its turn."""
        if self._seat is None:
            self.close()
        elif self._busy or self._frames:
            self._frames.append(None)
        elif self.close_code is None:
            self._refuse_binary()

    def _take(self, frame: bytes | None) -> Work | None:
        if frame is None:
            self._refuse_binary()
            return None
        return self.handle(frame)

    @abstractmethod
    def handle(self, frame: bytes) -> Work | None:
        """Take a frame, or answer it at once."""

    @abstractmethod
    def _refuse_binary(self) -> None:
        """Answer a binary frame."""

    # Answers

    def say(self, data: bytes) -> None:
        """Send a frame."""
        self._out.append(data)
        self._wake()

    def call(
        self,
        kind: type[m.Reset | m.Step | m.GetState],
        data: msgspec.Raw | bytes,
        done: Callable[[Answer], bytes],
    ) -> Work | None:
        """Post a call; `done` makes the frame that answers it."""
        assert self._seat is not None
        self._busy = True

        def answered(answer: Answer) -> None:
            self._busy = False
            if self._seat is not None:
                self.say(done(answer))
                self._go_on()

        return self._seat.post(Call(kind, data, answered))

    def _go_on(self) -> None:
        """Take what waited, until something of it has to wait again."""
        while self._frames and not self._busy and self.close_code is None:
            work = self._take(self._frames.popleft())
            if work is not None and self._seat is not None:
                self._seat.execute(work)

    # Tools

    def answer_rpc(
        self, request: RpcRequest, frame_of: Callable[[RpcAnswer], bytes]
    ) -> Work | None:
        """Answer a JSON-RPC request of this socket's session."""
        seat = self._seat
        assert seat is not None
        answer: RpcAnswer | bytes
        if request.method == CREATE:
            if self._shared is None:
                # From now on, HTTP reaches it too.
                self._shared = self._hall.adopt(seat)
            answer = RpcResult(request.id, {"session_id": self._shared.id})
        elif request.method == CLOSE:
            answer = close_session(self._hall, request, own=self._shared)
        else:
            answer = tool_action(request, seat.shape)
        if not isinstance(answer, bytes):
            self.say(frame_of(answer))
            return None
        return self.call(
            m.Step,
            answer,
            lambda answer: frame_of(tool_answer(request, seat.shape, answer)),
        )

    # The end

    def close(self, code: int = 1000) -> None:
        """End the connection once everything is sent."""
        if self.close_code is None:
            self.close_code = code
            self._frames.clear()
            self._wake()

    def turn_away(self) -> None:
        """End the connection of a client that was told why it can't stay.

        Not at once: OpenEnv's older clients don't read what came before the end if
        they find it when they send. The error is the answer to whatever they ask.
        """
        loop = asyncio.get_running_loop()
        self._farewell = loop.call_later(_READING, self.close)

    def _ended(self) -> None:
        """The session ended without the client: nothing can be done here any more."""
        draining = self._hall.core.table.draining
        self.close(1001 if draining else 1000)

    def connection_lost(self, now: float) -> None:
        """The socket is gone, and its session with it, unless it came over HTTP."""
        if self._farewell is not None:
            self._farewell.cancel()
        shared, self._shared = self._shared, None
        seat, self._seat = self._seat, None
        self._frames.clear()
        self._out.clear()
        if shared is not None:
            self._hall.detach(shared)
        elif seat is not None:
            seat.leave()


class DialectSocket(_Socket):
    """One connection at `/ws`.

    Args:
        hall: OpenEnv's side of the server.
        wake: Called when something waits to be sent.
        environment: Which environment; None for the default.
        session_id: Of a session that was made over HTTP, to attach to.
    """

    def __init__(
        self,
        hall: Hall,
        wake: Callable[[], None],
        *,
        environment: str | None = None,
        session_id: str | None = None,
    ) -> None:
        super().__init__(hall, wake)
        if session_id is None:
            self._open(environment)
        else:
            self._attach(session_id)

    def _open(self, environment: str | None) -> None:
        shape = self._hall.shape(environment)
        if shape is None:
            known = list(self._hall.shapes)
            self._fail_session(f"expected one of {known!r}, got {environment!r}")
            return
        seat = self._hall.enter(shape)
        if isinstance(seat, m.Failure):
            self._fail(shape.error(seat, tracebacks=self._hall.tracebacks))
            self.turn_away()
            return
        self._seat = seat
        seat.ended = self._ended

    def _attach(self, session_id: str) -> None:
        shared = self._hall.find(session_id)
        if shared is None:
            self._fail_session(f"Unknown session_id: {session_id}")
        elif shared.attached:
            text = f"Session {session_id} already has an attached WebSocket"
            self._fail_session(text)
        else:
            self._shared, self._seat = shared, shared.seat
            self._hall.attach(shared)
            shared.seat.ended = self._shared_ended

    def _shared_ended(self) -> None:
        if self._shared is not None:
            self._hall.forget(self._shared)
        self._ended()

    # Errors

    def _fail(self, data: ErrorData) -> None:
        self.say(encode(ErrorFrame(data)))

    def _fail_session(self, text: str) -> None:
        self._fail(ErrorData(message=text, code="SESSION_ERROR"))
        self.turn_away()

    def _refuse_binary(self) -> None:
        text = "Invalid JSON: expected a text frame, got a binary one"
        self._fail(ErrorData(message=text, code="INVALID_JSON"))

    # Requests

    def handle(self, frame: bytes) -> Work | None:
        """Take a frame, or answer it at once."""
        try:
            request = decode_from_client(frame)
        except FrameProblem as problem:
            self._fail(
                ErrorData(
                    message=problem.message, code=problem.code, errors=problem.errors
                )
            )
            return None
        match request:
            case StepFrame():
                data = cast(msgspec.Raw, request.data)
                return self.call(m.Step, data, self._observed(m.Step, data))
            case ResetFrame():
                data = cast(msgspec.Raw, request.data)
                return self.call(m.Reset, data, self._observed(m.Reset, data))
            case StateFrame():
                return self.call(m.GetState, b"{}", self._described)
            case McpFrame():
                return self._rpc(request)
            case CloseFrame():
                self.close()
                return None
            case _:
                assert_never(request)

    def _observed(self, kind: type, sent: msgspec.Raw) -> Callable[[Answer], bytes]:
        def done(answer: Answer) -> bytes:
            assert self._seat is not None
            if type(answer) is m.Reply:
                data = self._seat.shape.observation(answer.payload)
                return encode(ObservationFrame(data))
            return self._failed(answer, kind, sent)

        return done

    def _described(self, answer: Answer) -> bytes:
        assert self._seat is not None
        if type(answer) is m.Reply:
            return encode(StateReplyFrame(self._seat.shape.state(answer.payload)))
        return self._failed(answer, m.GetState, None)

    def _failed(self, answer: Answer, kind: type, sent: object) -> bytes:
        assert isinstance(answer, m.Failure)
        assert self._seat is not None
        data = self._seat.shape.error(
            answer, tracebacks=self._hall.tracebacks, kind=kind, sent=sent
        )
        if data.code in _LAST:
            self.close()
        return encode(ErrorFrame(data))

    # Tools

    def _rpc(self, frame: McpFrame) -> Work | None:
        try:
            request = decode_rpc_request(cast(msgspec.Raw, frame.data))
        except RpcProblem as problem:
            self.say(encode(McpReplyFrame(problem.failure)))
            return None
        return self.answer_rpc(request, lambda answer: encode(McpReplyFrame(answer)))


class RpcSocket(_Socket):
    """One connection at `/mcp`: a session of its own, plain JSON-RPC.

    Args:
        hall: OpenEnv's side of the server.
        wake: Called when something waits to be sent.
        environment: Which environment; None for the default.
    """

    def __init__(
        self, hall: Hall, wake: Callable[[], None], *, environment: str | None = None
    ) -> None:
        super().__init__(hall, wake)
        shape = hall.shape(environment)
        if shape is None:
            self._refuse(f"expected one of {list(hall.shapes)!r}, got {environment!r}")
            return
        seat = hall.enter(shape)
        if isinstance(seat, m.Failure):
            text = shape.error(seat, tracebacks=hall.tracebacks).message
            self._refuse(text, seat)
            return
        self._seat = seat
        seat.ended = self._ended

    def _refuse(self, text: str, failure: m.Failure | None = None) -> None:
        numbers = None if failure is None else self._hall.capacity_detail(failure)
        self.say(encode(rpc_failure(None, RpcCode.SERVER_ERROR, text, numbers)))
        self.turn_away()

    def _refuse_binary(self) -> None:
        self.say(encode(rpc_failure(None, RpcCode.PARSE_ERROR, "Parse error")))

    def handle(self, frame: bytes) -> Work | None:
        """Take a request, or answer it at once."""
        try:
            request = decode_rpc_request(frame)
        except RpcProblem as problem:
            self.say(encode(problem.failure))
            return None
        return self.answer_rpc(request, encode)
