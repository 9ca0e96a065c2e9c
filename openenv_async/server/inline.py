"""Environments on the event loop, without a task per step.

A step that does not suspend costs no task, no future and no turn of the loop: a
*runner*, which is one ordinary task, works off everything that arrived, one coroutine
after the other. When a coroutine suspends, its runner stays with it until it ends, and
another runner takes over the rest. Each coroutine therefore sees one task from its
first line to its last, which is what `asyncio.timeout`, task groups and anyio's scopes
rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, cast

from .. import messages as m
from .._aio import Resumed, Tasks
from ..protocol import Outcome, Request
from .hosts import UNDECODABLE, Host, waited

__all__ = ["InlineBackend"]

_Coroutine: Final = cast(type[Coroutine[Any, Any, Any]], types.CoroutineType)
_SLICE_NS: Final = 5_000_000
"""Nanoseconds after which a runner lets the loop breathe."""
_BURST: Final = 256
"""Requests after which a runner lets the answers be sent."""
_IDLE_RUNNERS: Final = 1024
"""Runners that are kept for reuse after their coroutine suspended."""
_GRACE: Final = 1.0
"""Seconds that a cancelled coroutine has before its session is given up."""


class InlineBackend:
    """Runs requests on the event loop, in the order in which they arrive.

    Args:
        tasks: Owner of the runners.
        flush: Sends the answers that there are.
    """

    def __init__(self, tasks: Tasks, flush: Callable[[], None]) -> None:
        self._tasks = tasks
        self._flush = flush
        self.ready: Final[deque[tuple[Host, Request]]] = deque()
        """Requests that wait for a runner; see `post`."""
        self._idle: list[asyncio.Future[None]] = []
        self._draining = False
        """Whether a runner is working off what is ready."""
        self._closed = False
        self.current: Host | None = None
        """Whose code is on the loop now, for the lag monitor."""

    def submit(self, host: Host, request: Request) -> None:
        """Execute a request soon; the answer goes to the host's sink."""
        host.running = request
        self.ready.append((host, request))
        if not self._draining:
            self._wake()

    def post(self, host: Host, request: Request) -> None:
        """Like `submit`, by a task that calls `help` next."""
        host.running = request
        self.ready.append((host, request))

    async def help(self, suspending: Callable[[], None]) -> bool:
        """Be a runner for a while: one burst, or until a coroutine suspended.

        What is ready after that is left to another runner, because the caller's
        connection would not be read for as long as the others keep this one busy.

        Args:
            suspending: Called before this task stays with a coroutine that suspended.

        Returns:
            Whether one did; by now it has ended.
        """
        if self._draining or not self.ready:
            return False
        self._draining = True
        try:
            suspended = await self._work_off(suspending)
        except BaseException:
            self._draining = False
            if self.ready:
                self._wake()
            raise
        if not suspended:
            self._draining = False
            if self.ready:
                self._wake()
            task = asyncio.current_task()
            assert task is not None
            if task.cancelling():
                await _absorb()
        return suspended

    def _wake(self) -> None:
        self._draining = True
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._tasks.spawn(self._run(), "openenv-async-runner")

    def cancel(self, host: Host, code: str = "cancelled") -> None:
        """Stop the host's request; its answer says what became of it."""
        if host.running is None or host.stopping:
            return
        host.stopping = code
        if host.task is not None:
            host.task.cancel()
            loop = asyncio.get_running_loop()
            loop.call_later(_GRACE, self._give_up, host, host.running)

    def _give_up(self, host: Host, request: Request) -> None:
        if host.running is request and host.stopping:
            code = host.stopping
            host.stopped(request, code, executed="unknown", outcome=Outcome.POISONED)

    def close(self) -> None:
        """Let cancellations end the runners; until then none of them is meant so."""
        self._closed = True

    async def _run(self) -> None:
        """A runner: works off what is ready, then waits to be woken."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                suspended = await self._work_off()
                if suspended and self._draining:
                    pass  # Somebody else took over while this runner was away.
                elif self.ready:
                    self._draining = True
                    continue
                else:
                    self._draining = False
                if len(self._idle) >= _IDLE_RUNNERS:
                    return
                waiter = loop.create_future()
                self._idle.append(waiter)
                try:
                    await waiter
                finally:
                    if not waiter.done() or waiter.cancelled():
                        self._idle.remove(waiter)
            except asyncio.CancelledError:
                if self._closed:
                    raise
                # An environment cancelled the task that it ran in, and had ended when
                # that came into effect.
                _uncancel()

    async def _work_off(  # noqa: C901 (one loop, because each call costs a step)
        self, suspending: Callable[[], None] | None = None
    ) -> bool:
        """Run what is ready; returns early, with True, after a suspension.

        Args:
            suspending: Called before this task stays with a coroutine that suspended.
        """
        ready, clock, kind = self.ready, perf_counter_ns, m.Step
        slice_end = clock() + _SLICE_NS
        left = _BURST
        while ready:
            host, request = ready.popleft()
            if host.stopping or request.timeout is not None:
                self._check_start(host, request)
                if host.running is not request:
                    continue
            sink = host.sink
            started_ns = clock()
            sink.queue_ns = started_ns - sink.since_ns
            self.current = host
            try:
                if type(request) is kind and (step := host.step) is not None:
                    # What `begin` does for a plain step. Calling a coroutine function
                    # runs nothing of it yet.
                    try:
                        action = host.decode_action(request.action)
                    except UNDECODABLE as error:
                        raise host.undecodable(error) from error
                    value = step(action)
                else:
                    value = host.context.run(host.begin, request)
                if type(value) is _Coroutine:
                    try:
                        yielded = host.context.run(value.send, None)
                    except StopIteration as stop:
                        value = stop.value
                    else:
                        coroutine = value
                        if suspending is not None:
                            suspending()
                        await self._suspended(
                            host, request, coroutine, yielded, started_ns
                        )
                        return True
                elif inspect.isawaitable(value):
                    if suspending is not None:
                        suspending()
                    await self._suspended(host, request, _wrap(value), None, started_ns)
                    return True
            except BaseException as error:  # whatever it raises is its answer
                self.current = None
                if self._closed and isinstance(error, asyncio.CancelledError):
                    raise
                host.running = None
                host.failed(request, error)
                continue
            host.running = None
            if type(value) is host.plain_type and type(request) is kind:
                # What `finish` does for a plain step.
                ended_ns = clock()
                try:
                    sink.step_reply(value, ended_ns - started_ns)
                except Exception as error:  # noqa: BLE001 (its values may raise anything)
                    host.unencodable(request, error)
            else:
                ended_ns = host.finish(request, value, started_ns)
            left -= 1
            if not left or ended_ns > slice_end:
                # The answers leave, and the clients work on them while this runner
                # goes on, after it let others have their turn.
                self.current = None
                self._flush()
                if suspending is not None:
                    # A receiver has its own connection to look after.
                    return False
                await asyncio.sleep(0)
                slice_end = clock() + _SLICE_NS
                left = _BURST
        self.current = None
        self._flush()
        return False

    def _go_on(
        self, host: Host, function: Callable[[Any], object], argument: object
    ) -> object:
        """Run a coroutine until it suspends again, in its session's context."""
        self.current = host
        try:
            return host.context.run(function, argument)
        finally:
            self.current = None

    def _check_start(self, host: Host, request: Request) -> None:
        """Refuse a request that was cancelled, or too late, before it began."""
        code = host.stopping
        if not code:
            assert request.timeout is not None
            if waited(host) <= request.timeout:
                return
            code = "deadline_exceeded"
        host.stopped(request, code, executed="no", outcome=Outcome.UNCHANGED)

    async def _suspended(
        self,
        host: Host,
        request: Request,
        coroutine: Coroutine[Any, Any, Any],
        yielded: object,
        started_ns: int,
    ) -> None:
        """Stay with a coroutine that suspended; others are taken over meanwhile."""
        self.current = None
        self._draining = False
        if self.ready:
            self._wake()
        await self._stay(host, request, coroutine, yielded, started_ns)

    def adopt(
        self, host: Host, request: Request, awaitable: Any, started_ns: int
    ) -> None:
        """Await what a plain method returned in a thread, and answer with that."""
        work = self._stay(host, request, _wrap(awaitable), None, started_ns)
        self._tasks.spawn(work, "openenv-async-adopted")

    async def _stay(
        self,
        host: Host,
        request: Request,
        coroutine: Coroutine[Any, Any, Any],
        yielded: object,
        started_ns: int,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        host.task = task
        timer = None
        if request.timeout is not None:
            remaining = request.timeout - waited(host)
            loop = asyncio.get_running_loop()
            timer = loop.call_later(
                max(0.0, remaining), self.cancel, host, "deadline_exceeded"
            )
        error: BaseException | None = None
        value: object = None
        try:
            value = await Resumed(coroutine, yielded, partial(self._go_on, host))
        except BaseException as raised:  # whatever it raises is its answer
            if self._closed:
                raise
            error = raised
        finally:
            if host.task is task:
                host.task = None
            if timer is not None:
                timer.cancel()
            self.current = None
        # It may have been cancelled, and ended by itself all the same.
        _uncancel()
        if host.running is not request:
            # Given up before: nobody waits for the answer any more.
            if host.unstick():
                self.submit(host, m.Close(0, 0))
        elif error is None:
            host.running = None
            host.stopping = ""
            host.finish(request, value, started_ns)
        elif host.stopping and isinstance(error, asyncio.CancelledError):
            code = host.stopping
            host.stopped(request, code, executed="unknown", outcome=Outcome.BROKEN)
        else:
            host.running = None
            host.stopping = ""
            host.failed(request, error)


async def _absorb() -> None:
    """Let a cancellation of this task by an environment that ended have its effect."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    _uncancel()


def _uncancel() -> None:
    """Take back every cancellation of this task: they were meant for an environment."""
    task = asyncio.current_task()
    assert task is not None
    while task.cancelling():
        task.uncancel()


async def _wrap(awaitable: Any) -> Any:
    return await awaitable
