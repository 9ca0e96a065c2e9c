"""The event loop of plain calls: one thread for all that a process makes."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, final

__all__ = ["BACKGROUND", "Background", "run_in"]

ResultT = TypeVar("ResultT")

_JOIN_TIMEOUT: Final = 5.0
_EXIT_TIMEOUT: Final = 2.0
"""Seconds for clients that nobody closed, when the interpreter exits."""


@final
class Background:
    """A thread with an event loop, while there are users of it.

    Sessions of all clients that are called plainly live here, so that they share
    sockets whatever thread calls them.
    """

    def __init__(self) -> None:
        # The garbage collector may come back here while it is held.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._users: dict[object, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._pid = os.getpid()

    def enter(
        self, user: object, end: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.AbstractEventLoop:
        """Use the loop from now on; starts the thread if need be.

        Args:
            user: Any key; coming again changes nothing.
            end: Ends what the user has there, when the interpreter exits.
        """
        with self._lock:
            if self._pid != os.getpid():
                # A fork has the object, but not the thread.
                self._pid, self._loop = os.getpid(), None
                self._users.clear()
            self._users[user] = end
            if self._loop is None:
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        ready = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            ready.set()
            await self._stop.wait()

        self._thread = threading.Thread(
            target=asyncio.run, args=(serve(),), name="openenv-async-calls", daemon=True
        )
        self._thread.start()
        ready.wait()

    def leave(self, user: object) -> None:
        """Use it no longer; the last one ends the thread."""
        with self._lock:
            self._users.pop(user, None)
            if self._users or self._loop is None or self._pid != os.getpid():
                return
            loop, thread, stop = self._loop, self._thread, self._stop
            self._loop = self._thread = self._stop = None
        assert thread is not None
        assert stop is not None
        loop.call_soon_threadsafe(stop.set)
        if thread is not threading.current_thread():
            thread.join(_JOIN_TIMEOUT)

    def dismiss(self, user: object) -> None:
        """End what a user has there, and have it leave; never blocks."""
        loop, end = self._loop, self._users.get(user)
        if loop is None or end is None or self._pid != os.getpid():
            return

        async def leave() -> None:
            try:
                await end()
            finally:
                self.leave(user)

        asyncio.run_coroutine_threadsafe(leave(), loop)

    def end_all(self) -> None:
        """End what clients have here that nobody closed; called at the exit."""
        loop, users = self._loop, dict(self._users)
        if loop is None or self._pid != os.getpid() or not users:
            return

        async def end() -> None:
            async with asyncio.TaskGroup() as group:
                for finish in users.values():
                    group.create_task(finish())

        future = asyncio.run_coroutine_threadsafe(end(), loop)
        try:
            future.result(_EXIT_TIMEOUT)
        except Exception:  # noqa: BLE001 (the process ends; the server will notice)
            future.cancel()


BACKGROUND: Final = Background()
"""The one of this process."""

atexit.register(BACKGROUND.end_all)


def run_in(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, ResultT]
) -> ResultT:
    """Run a coroutine in a loop of another thread, and block until it is done."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
