"""A sandbox: one worker, as the server sees it."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from openenv_async import LocalProtocolError, ServerDied

from ..interpreters.base import ErrorInfo
from .channel import Channel, Output
from .execution import Execution, Killed
from .frames import (
    MAX_FRAME,
    Answer,
    Ask,
    Call,
    Done,
    Run,
    WorkerReply,
    framed,
    worker_replies,
)
from .limits import Limits

__all__ = ["WORKER_FRAME", "OnAsk", "Owner", "Sandbox"]

OnAsk = Callable[[str], Awaitable[str]]
"""Answers what running code asks."""

_OUT_OF_TIME: Final = 124
_CANNOT_START: Final = 71
"""As in sysexits.h."""
_KILLED: Final = 128 + signal.SIGKILL
_NAME_CHARACTERS: Final = 256
_MESSAGE_CHARACTERS: Final = 16_384


class Owner(Protocol):
    """What a sandbox needs of its pool."""

    @property
    def limits(self) -> Limits:
        """Of each worker."""

    def kill(self, sandbox: Sandbox) -> None:
        """Have the worker killed; `ended` follows."""

    def busy(self, sandbox: Sandbox) -> None:
        """The worker begins to run code."""

    def release(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """The worker is gone: remove what it left."""


class Sandbox:
    """A worker process that runs code, one request at a time; made by a pool.

    A worker that is gone stays gone: every later request tells how it went. Cancelling
    a request kills the worker, because nobody could tell what the code did.

    Args:
        owner: The pool.
        number: The worker's name in it.
        uid: Its user, if it has one of its own.
        streams: The reading ends of stdout and stderr, not blocking.
    """

    def __init__(
        self,
        owner: Owner,
        number: int,
        *,
        uid: int | None,
        streams: tuple[int, int],
    ) -> None:
        self.number: Final = number
        self.uid: Final = uid
        self._owner = owner
        self._limits = owner.limits
        most = owner.limits.output_bytes
        self._stdout = Output(streams[0], most)
        self._stderr = Output(streams[1], most)
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()
        self._seq = 0
        self._timeout = math.inf
        self._waiter: asyncio.Future[WorkerReply | None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        """Done when the worker is gone and reaped."""
        self._removed: asyncio.Future[None] | None = None
        self._reason: Killed | None = None
        self._fault = ""
        self._start_log = ""
        self.is_worth_a_retry = False
        """Whether the machine only had no room for it just now."""
        self._status = 0
        self._is_lost = False
        self._closed = False
        self.is_running = False

    def connect(self, channel: Channel) -> None:
        """Give the sandbox its channel, whose callbacks are the two below."""
        self._channel = channel

    @property
    def is_alive(self) -> bool:
        """Whether the worker, and all that the code has defined, is there."""
        return not self._gone.done() and self._reason is None

    # Requests

    async def ready(self, timeout: float) -> bool:
        """Wait until the worker is up; says whether it is."""
        execution = await self._exchange(None, timeout, None)
        self._start_log = self._start_log or execution.stderr
        return execution.killed is None

    async def run(
        self, code: str, *, timeout: float, on_ask: OnAsk | None = None
    ) -> Execution:
        """Run code.

        Args:
            code: Python.
            timeout: Seconds until the worker is killed.
            on_ask: Answers what the code asks; without one, asking is a fault.

        Raises:
            LocalProtocolError: Another request is running.
            ServerDied: The sandbox was lost through no fault of the code.
        """
        self._begin()
        return await self._exchange(Run(self._seq, code), timeout, on_ask)

    async def call(self, name: str, arguments: str, *, timeout: float) -> Execution:
        """Call a function that code has defined.

        Args:
            name: Of the function.
            arguments: Literal text of the tuple of positional arguments.
            timeout: Seconds until the worker is killed.

        Raises:
            LocalProtocolError: Another request is running.
            ServerDied: The sandbox was lost through no fault of the code.
        """
        self._begin()
        return await self._exchange(Call(self._seq, name, arguments), timeout, None)

    def _begin(self) -> None:
        if self.is_running:
            raise LocalProtocolError(
                "expected one request at a time in a sandbox, got another one"
            )
        self._seq += 1

    async def _exchange(
        self, request: Run | Call | None, timeout: float, on_ask: OnAsk | None
    ) -> Execution:
        """Send a request and serve the code until it is done or dead."""
        self.is_running = True
        if self.is_alive:
            self._timeout = timeout
        timer = self._loop.call_later(timeout, self._kill_for, "timeout")
        deadline = self._loop.time() + timeout
        try:
            if request is not None and self.is_alive:
                self._owner.busy(self)
                assert self._channel is not None
                self._channel.send(framed(request))
            while True:
                reply = await self._next()
                if reply is None:
                    return self._dead()
                if isinstance(reply, Done):
                    if self._reason is None:
                        return self._finished(reply)
                    # Too late: the kill is on its way, and the worker's state lost.
                    continue
                await self._answer(reply, on_ask, deadline)
        except BaseException:
            self._kill_for("cancelled")
            raise
        finally:
            timer.cancel()
            self.is_running = False

    async def _next(self) -> WorkerReply | None:
        """The worker's next reply, or None when it is gone."""
        if self._gone.done():
            return None
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    async def _answer(self, ask: Ask, on_ask: OnAsk | None, deadline: float) -> None:
        if on_ask is None:
            self._fail("it asked, but nobody answers here")
            return
        try:
            async with asyncio.timeout_at(deadline):
                text = await on_ask(ask.text)
        except TimeoutError:
            # The worker is killed at the same moment.
            return
        if self._channel is not None:
            self._channel.send(framed(Answer(ask.seq, text)))

    def _finished(self, done: Done) -> Execution:
        outcome, most = done.outcome, self._limits.output_bytes
        result, is_cut = outcome.result, done.result_truncated
        if result is not None and len(result) > most:
            # The worker cuts in bytes, unless it lies.
            result, is_cut = result[:most], True
        return self._with_output(
            Execution(
                result=result,
                result_truncated=is_cut,
                value=outcome.value,
                error=_bounded(outcome.error),
                exit_code=outcome.exit_code & 0xFF,
            )
        )

    def _with_output(self, execution: Execution) -> Execution:
        stdout, stdout_bytes, stdout_truncated = self._stdout.take()
        stderr, stderr_bytes, stderr_truncated = self._stderr.take()
        return msgspec.structs.replace(
            execution,
            stdout=stdout,
            stderr=stderr,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            stdout_truncated=stdout_truncated,
            stderr_truncated=stderr_truncated,
        )

    def last_words(self) -> str:
        """What a worker that did not start wrote, or why it was not even forked."""
        return self._start_log

    # What the worker sends

    def on_frame(self, body: bytes) -> None:
        """Take a frame from the worker."""
        waiter = self._waiter
        try:
            reply = worker_replies.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail(f"it sent a frame that cannot be decoded: {error}")
            return
        if waiter is None or waiter.done() or reply.seq != self._seq:
            self._fail("it sent a reply that nobody waits for")
        else:
            waiter.set_result(reply)

    def on_fault(self, fault: str) -> None:
        """Take what is wrong with the stream of frames."""
        self._fail(fault)

    def _fail(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._kill_for("protocol")

    # The end

    def kill(self) -> None:
        """Kill the worker; idempotent. What comes of it, `aclose` awaits."""
        if not self._gone.done():
            self._owner.kill(self)

    def _kill_for(self, reason: Killed) -> None:
        if not self._gone.done() and self._reason is None:
            self._reason = reason
            self.kill()

    def out_of_disk(self) -> None:
        """The scratch directory has grown beyond its limit."""
        self._kill_for("disk")

    def crowded(self) -> None:
        """It is killed for its threads."""
        self._kill_for("threads")

    def refused(self, reason: str, *, is_busy: bool) -> None:
        """It could not be forked."""
        self._start_log = reason
        self.is_worth_a_retry = is_busy
        self.ended(_CANNOT_START)

    def ended(self, status: int) -> None:
        """The worker is gone, with an exit status or minus a signal's number."""
        if self._gone.done():
            return
        self._status = status
        if self._reason is None:
            self._reason = _reason_of(status)
        self._gone.set_result(None)
        self._removed = self._owner.release(self)
        if self._channel is not None:
            self._channel.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lost(self) -> None:
        """The zygote is gone, and the worker with it."""
        if not self._gone.done():
            self._is_lost = True
            self.ended(-signal.SIGKILL)

    async def aclose(self) -> None:
        """Kill the worker, and remove its directory; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        try:
            # Shielded: what is removed must not depend on who waits for it.
            await asyncio.shield(self._gone)
            assert self._removed is not None
            await asyncio.shield(self._removed)
        finally:
            self._stdout.close()
            self._stderr.close()

    def _dead(self) -> Execution:
        if self._is_lost:
            raise ServerDied("the process that starts the workers ended")
        reason = self._reason
        assert reason is not None
        exit_code, kind, message = self._explain(reason)
        return self._with_output(
            Execution(
                exit_code=exit_code,
                killed=reason,
                error=ErrorInfo(type=kind, message=message),
            )
        )

    def _explain(self, reason: Killed) -> tuple[int, str, str]:
        limits, status = self._limits, self._status
        match reason:
            case "timeout":
                text = f"expected the code to end within {self._timeout:g} s"
                return _OUT_OF_TIME, "TimeoutError", text
            case "cpu":
                text = f"expected at most {limits.cpu_seconds} s of processor time"
                return 128 + signal.SIGXCPU, "TimeoutError", f"{text} in an episode"
            case "disk":
                text = (
                    f"expected at most {limits.scratch_mib} MiB in "
                    f"{limits.scratch_files} readable files in the scratch directory"
                )
                return _KILLED, "OSError", text
            case "threads":
                text = f"expected at most {limits.threads} threads"
                return _KILLED, "RuntimeError", text
            case "protocol":
                text = f"the code broke its worker's channel: {self._fault}"
                return _KILLED, "WorkerDied", text
            case "cancelled":
                return _KILLED, "CancelledError", "an earlier call was cancelled"
            case "exit":
                return status, "SystemExit", f"the process exited with status {status}"
            case "signal":
                return 128 - status, "WorkerDied", _signalled(-status)


def _reason_of(status: int) -> Killed:
    if status == -signal.SIGXCPU:
        return "cpu"
    return "signal" if status < 0 else "exit"


def _signalled(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    text = f"signal {name} ended the process"
    if number == signal.SIGKILL:
        return f"{text}: the machine ran out of memory, or it used up its time"
    return text


def _bounded(error: ErrorInfo | None) -> ErrorInfo | None:
    """An error of reasonable size; the worker cuts it too, unless it lies."""
    if error is None:
        return None
    return ErrorInfo(
        type=error.type[:_NAME_CHARACTERS],
        message=error.message[:_MESSAGE_CHARACTERS],
        line=error.line,
    )


WORKER_FRAME: Final = MAX_FRAME // 4
"""Longest frame that is accepted from a worker."""
