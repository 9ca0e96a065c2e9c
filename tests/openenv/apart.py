"""A server in a thread of its own, for clients that block the test's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tests.serving import Serving, serving

__all__ = ["serving_apart"]


@contextlib.contextmanager
def serving_apart(*served: Any, **options: Any) -> Iterator[Serving]:
    """Serve in a thread; see `serving`."""
    ready = threading.Event()
    running: list[Serving] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        async with serving(*served, tcp=True, **options) as server:
            running.append(server)
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await stop[0][1].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield running[0]
    finally:
        for loop, event in stop:
            loop.call_soon_threadsafe(event.set)
        thread.join(10)
