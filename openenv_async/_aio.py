"""The few async helpers that all layers share: owned tasks, shielded teardown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import anyio

__all__ = ["Tasks", "shielded"]

_logger = logging.getLogger("openenv_async")


class Tasks:
    """Background tasks with an owner who ends them.

    The one place where tasks are created: a connection is shared by sessions that
    come and go in different tasks, so its own tasks cannot live in a task group that
    one of these opened. Whoever holds a `Tasks` awaits `aclose()`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        """Start a task; what it raises is logged, never lost."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("task %s failed", task.get_name(), exc_info=error)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end; idempotent.

        Cancelling the caller does not leave a task behind.
        """
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(tasks)


async def shielded(coroutine: Coroutine[Any, Any, None], *, timeout: float) -> None:
    """Await a teardown to its end, or to its deadline, despite cancellation.

    Args:
        coroutine: What to run.
        timeout: Seconds after which it is given up.
    """
    with anyio.move_on_after(timeout, shield=True):
        await coroutine
