"""The few async helpers that all layers share: owned tasks, shielded teardown."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from time import perf_counter_ns
from typing import Any, Final

import anyio

__all__ = ["SPIN_SESSIONS", "SPIN_WINDOW", "Resumed", "Spinner", "Tasks", "shielded"]

_logger = logging.getLogger("openenv_async")


def _plainly(function: Callable[[Any], object], argument: object) -> object:
    return function(argument)


class Resumed:
    """The rest of a coroutine that was started by hand, as an awaitable.

    Args:
        coroutine: What was started with `send(None)`, and yielded.
        yielded: What it yielded.
        call: Calls a function with an argument: its `send` or its `throw`.
    """

    __slots__ = ("_call", "_coroutine", "_yielded")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        yielded: object,
        call: Callable[[Callable[[Any], object], object], object] = _plainly,
    ) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._call = call

    def __await__(self) -> Generator[object, Any, Any]:
        call, coroutine, yielded = self._call, self._coroutine, self._yielded
        while True:
            try:
                try:
                    value = yield yielded
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 (thrown on into the coroutine)
                    yielded = call(coroutine.throw, error)
                else:
                    yielded = call(coroutine.send, value)
            except StopIteration as stop:
                return stop.value


class Spinner:
    """Keeps a loop awake for a moment after traffic, because more is likely to come.

    A core that sleeps takes tens of microseconds to wake, often longer than a step. So
    the loop polls for `window` seconds instead of sleeping, and stops to do so where
    that does not pay: when traffic seldom comes within the window, and where there is
    only one core, which the peer needs more. Its owner touches it only while few
    sessions are active: many keep each other awake, and polling would slow them.

    Args:
        window: Seconds to poll after traffic; 0 never polls.
    """

    def __init__(self, window: float) -> None:
        self._window_ns = int(window * 1e9)
        self._until_ns = 0
        self._spinning = False
        self._luck = 1.0
        """Moving share of the windows in which traffic came."""
        self._skipped = 0
        self._loop = asyncio.get_running_loop()
        if not _has_cores():
            self._window_ns = 0

    def touch(self) -> None:
        """There was traffic."""
        window_ns = self._window_ns
        if not window_ns:
            return
        if self._spinning:
            self._luck += (1.0 - self._luck) * _SPIN_MEMORY
        elif self._luck < _SPIN_LEAST_LUCK and self._skipped < _SPIN_PATIENCE:
            self._skipped += 1
            return
        else:
            self._skipped = 0
            self._spinning = True
            self._loop.call_soon(self._turn)
        self._until_ns = perf_counter_ns() + window_ns

    def _turn(self) -> None:
        if perf_counter_ns() < self._until_ns:
            self._loop.call_soon(self._turn)
        else:
            self._spinning = False
            self._luck -= self._luck * _SPIN_MEMORY


SPIN_WINDOW: Final = 60e-6
"""Seconds of polling by default: a step of a fast environment comes within."""
SPIN_SESSIONS: Final = 8
"""Sessions on a connection above which polling does not help."""
_SPIN_MEMORY: Final = 0.05
"""Weight of the newest window in the share of lucky ones."""
_SPIN_LEAST_LUCK: Final = 0.3
"""Share of lucky windows below which polling does not pay."""
_SPIN_PATIENCE: Final = 64
"""Windows to skip before looking again whether it pays."""


def _has_cores() -> bool:
    """Whether this process may use more than one core."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) > 1
    return (os.cpu_count() or 1) > 1


class Tasks:
    """Background tasks with an owner who ends them.

    The one place where tasks are created: a connection is shared by sessions that
    come and go in different tasks, so its own tasks cannot live in a task group that
    one of these opened. Whoever holds a `Tasks` awaits `aclose()`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, None],
        name: str,
        context: Context | None = None,
    ) -> asyncio.Task[None]:
        """Start a task; what it raises is logged, never lost.

        Args:
            coroutine: What it does.
            name: For logs.
            context: Of its context variables; None copies the running one.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("task %s failed", task.get_name(), exc_info=error)

    async def aclose(self, *, patience: float = 5.0) -> None:
        """Cancel all tasks and wait for their end; idempotent.

        Cancelling the caller does not leave a task behind. A task that swallows its
        cancellation is left after all, because nothing can end it.

        Args:
            patience: Seconds after which such a task is left.
        """
        current = asyncio.current_task()
        tasks = {task for task in self._tasks if task is not current}
        for task in tasks:
            task.cancel()
        cancelled = await _outlast(tasks, patience)
        left = [task for task in tasks if not task.done()]
        if left:
            names = ", ".join(sorted({task.get_name() for task in left}))
            _logger.warning(
                "%d tasks cannot be cancelled and were left: %s", len(left), names
            )
        for task in left:
            # Otherwise `asyncio.run` would wait for it for ever.
            asyncio.tasks._unregister_task(task)  # noqa: SLF001 (documented for those who manage tasks)
            # It was told above; asyncio would tell it again for each.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 (as `asyncio.gather` does)
        if cancelled is not None:
            raise cancelled


async def shielded(coroutine: Coroutine[Any, Any, None], *, timeout: float) -> None:
    """Await a teardown to its end, or to its deadline, despite cancellation.

    A cancellation that arrives meanwhile is raised afterwards.

    Args:
        coroutine: What to run.
        timeout: Seconds after which it is cancelled.
    """
    # A task of its own, because no scope holds off a plain `task.cancel()`.
    task = asyncio.get_running_loop().create_task(coroutine)
    cancelled = await _outlast({task}, timeout)
    if not task.done():
        _logger.warning("a teardown took more than %s s", timeout)
        task.cancel()
        cancelled = await _outlast({task}, timeout) or cancelled
    if task.done() and not task.cancelled() and (error := task.exception()):
        raise error
    if cancelled is not None:
        raise cancelled


async def _outlast(
    tasks: set[asyncio.Task[None]], timeout: float
) -> asyncio.CancelledError | None:
    """Wait for tasks whatever happens to the caller; returns what happened to it."""
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    pending = tasks
    with anyio.CancelScope(shield=True):
        while pending and (left := end - loop.time()) > 0:
            try:
                _, pending = await asyncio.wait(pending, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
