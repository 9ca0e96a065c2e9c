"""Blocking environments in threads, with one hop for everything that is ready.

Threads take requests from one queue and leave results in another; the event loop is
woken once for all results that are there, not once per step. The pool grows while
work waits and nothing moves, so that slow steps do not hold up fast ones.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter, perf_counter_ns
from typing import Final, TypeAlias

from .. import messages as m
from ..protocol import Outcome, Request
from .hosts import Host, waited

__all__ = ["ThreadBackend"]

_logger = logging.getLogger("openenv_async.server")

_STALL: Final = 0.005
"""Seconds without progress after which the pool grows."""

_Job: TypeAlias = tuple[Host, Request]
_Result = tuple[Host, Request, object, BaseException | None, int]


class ThreadBackend:
    """Runs requests in a pool of threads.

    Args:
        threads: Most threads at a time; threads that hang do not count.
        adopt: Awaits, on the loop, what a plain method returned that is awaitable.
    """

    def __init__(
        self,
        *,
        threads: int = 256,
        adopt: Callable[[Host, Request, object, int], None],
    ) -> None:
        self._most = threads
        self._adopt = adopt
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[_Result] = deque()
        self._threads: set[threading.Thread] = set()
        self._hung: set[Host] = set()
        self._idle = 0
        self._taken = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._notified = False
        self._watching = False
        self._closed = False
        self._timers: dict[Host, asyncio.TimerHandle] = {}

    def submit(self, host: Host, request: Request) -> None:
        """Execute a request soon; the answer goes to the host's sink."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        host.running = request
        if request.timeout is not None:
            remaining = request.timeout - waited(host)
            self._timers[host] = loop.call_later(
                max(0.0, remaining), self._expire, host, request
            )
        self._enqueue(loop, host, request)

    def _enqueue(
        self, loop: asyncio.AbstractEventLoop, host: Host, request: Request
    ) -> None:
        """Give a request to whichever thread comes first."""
        self._jobs.put((host, request))
        if not self._threads:
            self._grow()
        if not self._watching:
            self._watching = True
            loop.call_later(_STALL, self._watch, self._taken)

    def _watch(self, taken: int) -> None:
        """Add a thread if work waits and none was taken since the last look."""
        assert self._loop is not None
        if self._jobs.empty() or self._closed:
            self._watching = False
            return
        if self._taken == taken and not self._idle:
            # Doubling, because a pool that grows by one would take a second to reach
            # the width that a batch of slow steps needs.
            for _ in range(max(1, len(self._threads) - len(self._hung))):
                self._grow()
        self._loop.call_later(_STALL, self._watch, self._taken)

    def _grow(self) -> None:
        if len(self._threads) - len(self._hung) < self._most:
            self._start_thread(self._work)

    def _start_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(
            target=work, name="openenv-async-environment", daemon=True
        )
        self._threads.add(thread)
        thread.start()

    # In a thread

    def _work(self) -> None:
        while True:
            self._idle += 1
            job = self._jobs.get()
            self._idle -= 1
            self._taken += 1
            if job is None:
                return
            self._run(job)
            host = job[0]
            if host in self._hung:
                # Its place in the pool was given to another thread.
                self._hung.discard(host)
                self._threads.discard(threading.current_thread())
                return

    def _run(self, job: _Job) -> None:
        """Run one request, unless it was given up, and deliver what comes of it."""
        host, request = job
        # Against `_expire` and `cancel`: either they see that it began, or it does
        # not begin.
        with self._lock:
            if host.running is not request:
                return
            stopping = host.stopping
            started_ns = perf_counter_ns()
            if not stopping:
                host.started_ns = started_ns
        if stopping:
            self._deliver((host, request, None, None, -1))
            return
        host.sink.queue_ns = started_ns - host.sink.since_ns
        error: BaseException | None = None
        value: object = None
        try:
            value = host.context.run(host.begin, request)
        except BaseException as raised:  # noqa: BLE001 (whatever it is, it is the answer)
            error = raised
        self._deliver((host, request, value, error, started_ns))

    def _deliver(self, result: _Result) -> None:
        self._results.append(result)
        with self._lock:
            if self._notified or self._closed:
                return
            self._notified = True
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:
            _logger.debug("a result came after the event loop had ended")

    # On the event loop

    def _collect(self) -> None:
        with self._lock:
            self._notified = False
        results = self._results
        while results:
            host, request, value, error, started_ns = results.popleft()
            if host.running is not request:
                # Given up at its deadline: nobody waits any more.
                if host.stuck and host.unstick():
                    self.submit(host, m.Close(0, 0))
                continue
            self._disarm(host)
            if started_ns < 0:
                code = host.stopping
                host.stopped(request, code, executed="no", outcome=Outcome.UNCHANGED)
                continue
            host.running = None
            host.stopping = ""
            host.started_ns = 0
            if error is not None:
                host.failed(request, error)
            elif type(value) is not host.plain_type and inspect.isawaitable(value):
                host.running = request
                self._adopt(host, request, value, started_ns)
            else:
                host.finish(request, value, started_ns)
            if type(request) is m.Close and host.environment is None:
                self._released(host)

    def _released(self, host: Host) -> None:
        """A session's environment is closed: nothing more comes for it."""

    def _disarm(self, host: Host) -> None:
        timer = self._timers.pop(host, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, host: Host, request: Request) -> None:
        self._timers.pop(host, None)
        if host.running is not request:
            return
        code = "deadline_exceeded"
        with self._lock:
            if not host.started_ns:
                host.running = None
        if host.started_ns:
            self._hung.add(host)
            host.stopped(request, code, executed="unknown", outcome=Outcome.POISONED)
        else:
            host.stopped(request, code, executed="no", outcome=Outcome.UNCHANGED)

    def cancel(self, host: Host, code: str = "cancelled") -> None:
        """Stop the host's request if it has not begun; a running one goes on.

        A thread cannot be stopped: the request that it runs is answered when it ends,
        as executed.
        """
        with self._lock:
            if host.running is not None and not host.started_ns:
                host.stopping = code

    def give_up(self, host: Host) -> None:
        """Do not wait any longer for a call that nobody needs; its thread is left."""
        if host.running is not None:
            self._disarm(host)
            self._expire(host, host.running)

    def close(self) -> None:
        """Let the threads end once their current calls return."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, timeout: float) -> int:
        """Wait for the threads to end; returns how many hang in an environment.

        Args:
            timeout: Seconds for all of them together.
        """
        end = perf_counter() + timeout
        for thread in list(self._threads):
            thread.join(max(0.0, end - perf_counter()))
        return sum(thread.is_alive() for thread in self._threads)
