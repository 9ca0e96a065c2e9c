"""Looks at what workers take that no limit of the kernel bounds: disk, and threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol

from . import scratch
from .limits import Limits

__all__ = ["Patrol", "Suspect", "started_threads"]

_BUSY: Final = 0.05
"""Seconds between two looks at workers that run code."""
_IDLE: Final = 1.0
"""Seconds between two looks at the others. A thread that code left behind goes on, and
code can say that it is done when it is not."""
_THREADS: Final = 2
_MIB: Final = 1024 * 1024


def started_threads() -> ThreadPoolExecutor:
    """Threads that are there already, so that hostile code cannot keep us from them."""
    executor = ThreadPoolExecutor(_THREADS, "coding-env")
    # It starts a thread only while none is idle.
    gate = threading.Event()
    for _ in range(_THREADS):
        executor.submit(gate.wait)
    gate.set()
    return executor


class Suspect(Protocol):
    """What a patrol needs of a sandbox."""

    @property
    def number(self) -> int:
        """Its worker's name, and that of its directory."""

    @property
    def uid(self) -> int | None:
        """The worker's user, if it has one of its own."""

    @property
    def is_alive(self) -> bool:
        """Whether there is anything to look at."""

    @property
    def is_running(self) -> bool:
        """Whether it runs code, as far as the server knows."""

    def out_of_disk(self) -> None:
        """It takes too much of the disk."""


class Patrol:
    """Looks at the workers of one zygote that have run code.

    Often at those that run some, seldom at the others, not at all while there are none.

    Args:
        limits: Of each worker.
        sessions: Where the workers' directories are.
        executor: Looks at the disk; it must need no new thread.
        inspect: Has the threads of workers counted, by number.
    """

    def __init__(
        self,
        limits: Limits,
        sessions: str,
        *,
        executor: Executor,
        inspect: Callable[[list[int]], None],
    ) -> None:
        self._limits = limits
        self._sessions = sessions
        self._executor = executor
        self._inspect = inspect
        self._loop = asyncio.get_running_loop()
        self._known: set[Suspect] = set()
        self._active: set[Suspect] = set()
        """Those that ran since the last look."""
        self._all_at = 0.0
        """When to look at all of them again."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_looking = False
        self._is_closed = False

    def watch(self, suspect: Suspect) -> None:
        """It begins to run code."""
        is_first = not self._active
        self._known.add(suspect)
        self._active.add(suspect)
        if is_first:
            self._schedule()

    def forget(self, suspect: Suspect) -> None:
        """Its worker is gone."""
        self._known.discard(suspect)
        self._active.discard(suspect)

    def close(self) -> None:
        """Look no more; idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        if self._is_closed or self._is_looking:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._known:
            pause = _BUSY if self._active else self._all_at - self._loop.time()
            self._timer = self._loop.call_later(max(pause, _BUSY), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() >= self._all_at:
            self._all_at = self._loop.time() + _IDLE
            self._active |= self._known
        looked_at = [one for one in self._active if one.is_alive]
        self._active = {one for one in looked_at if one.is_running}
        if not looked_at:
            self._schedule()
            return
        # The kernel counts the threads of a user.
        numbers = [one.number for one in looked_at if one.uid is None]
        if numbers:
            self._inspect(numbers)
        paths = [os.path.join(self._sessions, str(one.number)) for one in looked_at]
        self._is_looking = True
        looking = self._loop.run_in_executor(
            self._executor, _too_large, paths, self._limits
        )
        looking.add_done_callback(lambda done: self._looked(looked_at, done))

    def _looked(
        self, suspects: Sequence[Suspect], looking: asyncio.Future[list[bool]]
    ) -> None:
        self._is_looking = False
        # First: should looking have failed, that is no reason to look no more.
        self._schedule()
        if not looking.cancelled():
            for suspect, is_too_large in zip(suspects, looking.result(), strict=True):
                if is_too_large:
                    suspect.out_of_disk()


def _too_large(paths: Sequence[str], limits: Limits) -> list[bool]:
    """Which of these directories takes too much of the disk."""
    found: list[bool] = []
    for path in paths:
        size, count = scratch.measure(path, most_files=limits.scratch_files)
        too_many = count > limits.scratch_files
        found.append(too_many or size > limits.scratch_mib * _MIB)
    return found
