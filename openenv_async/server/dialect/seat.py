"""A session that OpenEnv's clients drive: calls from sockets and HTTP, one at a time.

A seat is the session's client inside the server. The session is one of the table like
any other: it counts, it runs in the same back end, it can be watched and taken over.
Only the way to it differs: replies go to callbacks instead of a socket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

import msgspec

from ... import messages as m
from ...errors import LocalProtocolError
from ...protocol import COUNTED, Channel, Outbox, Phase, ServerProtocol, Stage, Work
from ..core import SERVER, ServerCore
from .shapes import Misfit, Shape

__all__ = ["Answer", "Call", "Seat", "misfit"]

Answer = m.Reply | m.Failure
"""What a call ends with."""

_HANDLE: Final = 0
_AGAIN: Final = (Stage.NEW, Stage.DONE, Stage.BROKEN)
"""Stages that do not stop a step where OpenEnv's looser rules hold."""
_message: Final = m.JSON.from_server.message


class Call:
    """One request, with who wants its answer.

    Args:
        kind: `m.Reset`, `m.Step` or `m.GetState`.
        data: The encoded arguments, in OpenEnv's form.
        done: Takes the answer, on the loop, once; never called within `Seat.post`.
        timeout: Seconds that it may take.
    """

    __slots__ = ("data", "done", "kind", "timeout")

    def __init__(
        self,
        kind: type[m.Reset | m.Step | m.GetState],
        data: msgspec.Raw | bytes,
        done: Callable[[Answer], None],
        timeout: float | None = None,
    ) -> None:
        self.kind = kind
        self.data = data
        self.done = done
        self.timeout = timeout


class _Inside(Outbox):
    """Messages that go nowhere: any size is whole, up to the bound."""

    def __init__(self, wake: Callable[[], None], most: int) -> None:
        super().__init__(m.JSON, wake)
        self._most = most

    def takes_whole(self, size: int) -> bool:
        """Nothing is cut into chunks."""
        return True

    def append(self, data: bytes) -> None:
        """Queue a message.

        Raises:
            LocalProtocolError: It is larger than messages may be.
        """
        if len(data) > self._most:
            raise LocalProtocolError(
                f"expected at most {self._most} bytes, got {len(data)}",
                code="too_large",
                detail={"size": len(data), "limit": self._most},
            )
        if not self.small:
            self.wake()
        self.small.append(data)

    def append_behind(self, data: bytes) -> None:
        """Nothing overtakes anything here."""
        self.append(data)


class Seat(ServerProtocol):
    """One session, as the clients of OpenEnv see it.

    Args:
        core: The server.
        shape: The environment's payloads.
        ended: Called once, when the session ends without `leave`.
    """

    def __init__(self, core: ServerCore, shape: Shape) -> None:
        super().__init__(
            core.table,
            codec=m.JSON,
            server=SERVER,
            incarnation=core.incarnation,
            limits=core.limits,
            outbox=_Inside(self._awake, core.limits.message_bytes),
        )
        self.shape: Final = shape
        self.ended: Callable[[], None] | None = None
        self._core = core
        self._channel: Channel | None = None
        self._refused: m.Failure | None = None
        self._current: Call | None = None
        self._waiting: deque[Call] = deque()
        self._was_reset = False
        """Whether a reset was put before a call."""
        self.phase = Phase.READY

    def enter(
        self, *, key: str | None = None, label: str = "openenv"
    ) -> m.Failure | None:
        """Open the session; returns why that is not possible.

        Args:
            key: The session's key; a new one by default.
            label: The owner, for lists.
        """
        message = m.Open(
            _HANDLE,
            key or secrets.token_hex(16),
            self.shape.spec.name,
            label,
            0.0,
            # OpenEnv has no error for a session that somebody else drives: it waits.
            hold=True,
        )
        self._core.start()
        self._core.hold()
        self.table.open(self, message, perf_counter())
        self._outbox.clear()
        return self._refused

    def say(self, message: m.ClientMessage | m.ServerMessage) -> None:
        """Note a refusal to open; everything else goes the usual way."""
        if isinstance(message, m.Failure) and self._channel is None:
            self._refused = message
        super().say(message)

    def bind(self, handle: int, channel: Channel) -> None:
        """See `ServerProtocol.bind`; there is one handle."""
        super().bind(handle, channel)
        self._channel = channel

    def drop(self, channel: Channel, code: str, message: str) -> None:
        """The session ended without our asking."""
        super().drop(channel, code, message)
        self._core.mark(self)

    # Calls

    @property
    def is_busy(self) -> bool:
        """Whether a call is in flight."""
        return self._current is not None

    def post(self, call: Call) -> Work | None:
        """Queue a call behind those before it; returns what has to be executed now."""
        if self._current is not None or self._waiting:
            self._waiting.append(call)
            return None
        return self._begin(call)

    async def ask(
        self,
        kind: type[m.Reset | m.Step | m.GetState],
        data: msgspec.Raw | bytes = b"{}",
        *,
        timeout: float | None = None,
    ) -> Answer:
        """Queue a call and wait for its answer; cancelling that cancels the call."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(message: Answer) -> None:
            if not answer.done():
                answer.set_result(message)

        call = Call(kind, data, done, timeout)
        # There is no connection that would keep the server.
        self._core.hold()
        self.execute(self.post(call))
        try:
            return await answer
        except asyncio.CancelledError:
            self.withdraw(call)
            raise

    def withdraw(self, call: Call) -> None:
        """Stop a call, or forget it before its turn; idempotent.

        What follows it waits until the environment has let go of it.
        """
        channel = self._channel
        if call in self._waiting:
            self._waiting.remove(call)
        elif call is self._current and channel is not None:
            work = channel.cancel(channel.seq)
            if work is not None:
                self._core.execute(work)

    def execute(self, work: Work | None) -> None:
        """Execute what `post` returned."""
        if work is not None:
            self._core.statistics.requests += 1
            self._core.execute(work)

    def _begin(self, call: Call) -> Work | None:
        channel = self._channel
        self._current = call
        if channel is None or not channel.live:
            text = "expected an open session, got one that has ended"
            self._answer_inside(m.failure(_HANDLE, 0, "session_closed", text))
            return None
        if self._needs_reset(call, channel.session.stage):
            call = self._reset_before(call)
        session, kind, seq = channel.session, call.kind, channel.seq + 1
        request: m.Step | m.Reset | m.GetState
        try:
            if kind is m.Step:
                action = self.shape.action(call.data)
                request = m.Step(_HANDLE, seq, action, call.timeout)
                if self.shape.any_order and session.stage in _AGAIN:
                    session.stage = Stage.RUNNING
            elif kind is m.Reset:
                request = self.shape.reset(call.data, seq, call.timeout)
            else:
                request = m.GetState(_HANDLE, seq, call.timeout)
        except Misfit as error:
            self._answer_inside(misfit(error))
            return None
        return channel.accept(request, perf_counter())

    def _needs_reset(self, call: Call, stage: Stage) -> bool:
        """Whether an agent asks for tools of an environment that was never reset.

        OpenEnv's clients for tools do so, and environments of tools that were written
        for it allow it.
        """
        return (
            call.kind is m.Step
            and self.shape.has_tools
            and not self.shape.any_order
            and stage is Stage.NEW
            and not self._was_reset
        )

    def _reset_before(self, call: Call) -> Call:
        """Let a call wait for a reset; a reset that fails is its answer."""
        self._was_reset = True
        self._waiting.appendleft(call)

        def done(answer: Answer) -> None:
            # It may have been withdrawn meanwhile.
            is_next = bool(self._waiting) and self._waiting[0] is call
            if isinstance(answer, m.Failure) and is_next:
                self._waiting.popleft().done(answer)

        reset = self._current = Call(m.Reset, b"{}", done, call.timeout)
        return reset

    def _answer_inside(self, failure: m.Failure) -> None:
        """Answer the current call as if the session had."""
        self.send(m.JSON.encode(failure))

    # Answers

    def _awake(self) -> None:
        self._core.mark(self)

    @property
    def protocol(self) -> Seat:
        """A seat is its own link: there is no socket."""
        return self

    @property
    def channels(self) -> int:
        """How many connections the server has: with few of them polling pays."""
        return len(self._core.links)

    def flush(self) -> None:
        """Hand answers to those who wait for them, and begin what waits."""
        small = self.small
        while small:
            taken = small[:]
            small.clear()
            for data in taken:
                message = _message(data)
                if type(message) is m.Reply and len(data) <= COUNTED:
                    self._measure(message)
                if type(message) is m.Reply or type(message) is m.Failure:
                    self._answered(message)
                elif type(message) is m.Ended:
                    self._gone(message)

    def _measure(self, message: m.Reply) -> None:
        """What `SessionTable.measure` does for replies that leave in frames."""
        if self._channel is not None:
            counts = self._channel.session.counts
            counts.record(message.queue_ns, message.environment_ns)

    def _answered(self, message: Answer) -> None:
        call, self._current = self._current, None
        channel = self._channel
        if channel is not None:
            # Nobody can ask for it again.
            channel.forget()
        if call is not None:
            call.done(message)
        # The answer may have brought the next call.
        if self._current is None and self._waiting:
            self.execute(self._begin(self._waiting.popleft()))

    def _gone(self, message: m.Ended) -> None:
        failure = m.failure(_HANDLE, None, message.code, message.message)
        self._channel = None
        calls = [self._current, *self._waiting]
        self._current = None
        self._waiting.clear()
        for call in calls:
            if call is not None:
                call.done(failure)
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()

    def abort(self) -> None:
        """There is no socket to end."""

    # The end

    @property
    def is_open(self) -> bool:
        """Whether the session is still there."""
        return self._channel is not None

    def leave(self) -> None:
        """End the session; its environment is closed in the background. Idempotent."""
        channel, self._channel = self._channel, None
        self.ended = None
        self._core.hold()
        if channel is not None and channel.live:
            self._core.execute((channel, m.Cancel(_HANDLE, 0)))
        closed = m.failure(_HANDLE, None, "session_closed", "the session was closed")
        calls, self._current = [self._current, *self._waiting], None
        self._waiting.clear()
        for call in calls:
            if call is not None:
                call.done(closed)


def misfit(error: Misfit) -> m.Failure:
    """The answer to arguments that do not fit."""
    problem: dict[str, object] = {
        "type": "value_error",
        "loc": [error.where] if error.where else [],
        "msg": error.text,
        "input": error.found,
    }
    return m.failure(
        _HANDLE,
        None,
        "invalid_action",
        f"{error.where}: {error.text}",
        detail={"errors": [problem]},
    )
