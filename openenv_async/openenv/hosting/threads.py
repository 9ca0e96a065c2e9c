"""A thread for the blocking half of an environment whose other half is async."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias, TypeVar, cast

__all__ = ["OwnThread"]

T = TypeVar("T")

_Call: TypeAlias = Callable[[], None]


class OwnThread:
    """Runs calls one after the other, always on the same thread.

    The thread starts with the first call. It is a daemon: a call that hangs does not
    keep the process.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the thread, in the caller's context.

        A cancelled caller does not stop the call; the next one waits for its end.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(value: object, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(cast(T, value))
            else:
                answer.set_exception(error)

        def call() -> None:
            value: object = None
            error: BaseException | None = None
            try:
                value = context.run(function)
            except StopIteration as raised:
                # No future takes one.
                error = RuntimeError(f"the environment raised {raised!r}")
            except BaseException as raised:  # noqa: BLE001 (whatever it is, it is the answer)
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, value, error)

        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(
                target=_work,
                args=(self._calls,),
                name="openenv-async-hosted",
                daemon=True,
            ).start()
        self._calls.put(call)
        return await answer

    def end(self) -> None:
        """Let the thread end after what it was given; idempotent."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.put(None)


def _work(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call()
