"""`assert_no_leak`: what a block has opened is gone when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final

import anyio

from ..conformance import resources
from ..memory import MemoryServer

__all__ = ["assert_no_leak"]

_RUNNER: Final = "openenv-async-runner"
"""Name of the task in which a server runs environments, and waits for more."""


@contextlib.asynccontextmanager
async def assert_no_leak(
    server: MemoryServer | None = None, *, patience: float = 3.0
) -> AsyncGenerator[None, None]:
    """Compare threads, tasks, open files and child processes before and after.

    What is kept for what comes next is left out: the event loop's pools of threads,
    and the task with which a server runs environments.

    Args:
        server: Its sessions are counted, too.
        patience: Seconds in which what was closed has to be gone.

    Raises:
        AssertionError: Something is left; says how many of what.
    """
    before = await _held(server)
    yield
    left = await _held(server) - before
    with anyio.move_on_after(patience):
        while left:
            await anyio.sleep(0.02)
            left = await _held(server) - before
    if left:
        listed = ", ".join(f"{count} more {key}" for key, count in left.items())
        raise AssertionError(f"expected nothing left, got {listed}")


async def _held(server: MemoryServer | None) -> Counter[str]:
    # Reads /proc, which blocks; the first call begins the thread that it runs in.
    await anyio.to_thread.run_sync(int)
    held = await anyio.to_thread.run_sync(resources)
    names = [task.get_name() for task in asyncio.all_tasks()]
    held["tasks"] = sum(name != _RUNNER for name in names)
    if server is not None:
        held["sessions"] = server.sessions
    return held
