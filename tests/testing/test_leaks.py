"""`assert_no_leak` passes what tidies up, and counts what does not."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from openenv_async.memory import MemoryServer
from openenv_async.testing import assert_no_leak
from tests.clients import ScriptedEnv
from tests.environments import Command, ScriptedEnvironment


async def test_a_block_that_tidies_up_passes() -> None:
    """A server with sessions, opened and closed, leaves nothing."""
    async with assert_no_leak(), MemoryServer(ScriptedEnvironment) as server:
        async with assert_no_leak(server), ScriptedEnv(server.url) as env:
            await env.reset()
            await env.step(Command())


async def test_an_open_file_is_counted() -> None:
    """A descriptor that is still open is one more open file."""
    descriptor = -1
    with pytest.raises(AssertionError, match="1 more open files"):
        async with assert_no_leak(patience=0.1):
            descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)


async def test_a_thread_is_counted() -> None:
    """A thread that still runs is one more thread."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    with pytest.raises(AssertionError, match="1 more threads"):
        async with assert_no_leak(patience=0.1):
            thread.start()
    stop.set()
    await asyncio.to_thread(thread.join)


async def test_a_task_is_counted() -> None:
    """A task that still runs is one more task."""
    async with asyncio.TaskGroup() as group:
        with pytest.raises(AssertionError, match="1 more tasks"):
            async with assert_no_leak(patience=0.1):
                task = group.create_task(asyncio.sleep(60))
        task.cancel()


async def test_a_session_is_counted() -> None:
    """A session that is still open is one more session."""
    async with MemoryServer(ScriptedEnvironment) as server:
        env = ScriptedEnv(server.url)
        with pytest.raises(AssertionError, match="1 more sessions"):
            async with assert_no_leak(server, patience=0.1):
                await env.open()
        await env.aclose()


async def test_what_ends_in_time_is_not_counted() -> None:
    """A thread that is about to end is waited for."""
    async with assert_no_leak():
        threading.Timer(0.05, lambda: None).start()


async def test_an_error_of_the_block_is_not_hidden() -> None:
    """What the block raises comes out, whatever it left."""
    with pytest.raises(ZeroDivisionError):
        async with assert_no_leak():
            raise ZeroDivisionError
